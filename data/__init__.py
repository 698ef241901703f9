"""What the stages share: records, dataset readers, the cache format, tokenizers, and how a command talks to a person.

Knows nothing of CLIP, of training or of decoding; imports none of the other three folders.
"""
