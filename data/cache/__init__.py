"""The cache format: its index and shards, what made them, and how files are written whole. FORMAT.md specifies it."""
