"""Stage 1: a dataset becomes a cache. Runs frozen CLIP once over each picture.

Knows nothing of mappers and language models beyond their tokenizer.
"""
