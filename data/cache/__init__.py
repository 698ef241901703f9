"""The cache that stage 1 writes and stage 2 reads. FORMAT.md beside this file specifies it.

index.py        Cache: opens the index with its shards, iterates over their tables, verifies them
shard.py        ShardTables: the rows of one shard, written to and read from one HDF5 file
encoded.py      Encoded: the embeddings of some images by one encoder, taken by row and put together
scale.py        the power of two that embeddings are divided by where float16 does not hold them
hdf5.py         opens the HDF5 files of a cache, and marks them as ours
fingerprint.py  Fingerprint: the encoder, tokenizer, dataset and settings that a cache was made with
atomic.py       writes files and folders completely or not at all
"""
