"""The cache format: its index and shards, what made them, and writing them whole or not at all. FORMAT.md specifies it."""
