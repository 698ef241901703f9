"""Stage 2: a cache becomes a checkpoint. Trains a mapper, and GPT-2 with it or not.

Knows nothing of images and of CLIP: the cache is all that it sees of stage 1.
"""
