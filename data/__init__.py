"""What the stages share: records, dataset readers, the cache format, tokenizers, and how a command talks to a person.

Imports none of the other three folders.
"""
