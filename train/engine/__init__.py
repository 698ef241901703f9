"""One optimiser step: micro-batches, memory, several processes."""
