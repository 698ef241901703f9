"""Stage 1: a dataset becomes a cache. Encodes each image once with a frozen CLIP, and tokenises the captions.

Knows nothing of mappers, and of the language model only its tokenizer.
"""
