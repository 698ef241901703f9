"""The captions and embeddings of one split in memory, and the order in which an epoch visits them."""
