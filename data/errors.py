"""The errors a person can cause and mend.

The command line shows them as one line, without a traceback, exit status 2.
"""


class ClipCapError(Exception):
    """Base of the family. The message states the fact, the value and the way out, on one line."""


class UsageError(ClipCapError):
    """An option, or a combination of options, that cannot be honoured."""


class SourceError(ClipCapError):
    """A dataset that is not recognised, is inconsistent, or whose pictures mostly cannot be read."""


class CacheError(ClipCapError):
    """A cache, index or shard that is missing, damaged, foreign, or that does not belong with the rest."""


class DamagedCacheError(CacheError):
    """A file of a cache that is cut off or broken. It holds nothing that can be used, so it may be made again."""


class ModelError(ClipCapError):
    """An encoder, a language model or a tokenizer that cannot be had, or does not fit its architecture."""


class CheckpointError(ClipCapError):
    """A checkpoint or a training run that is missing, damaged, or does not fit what it is asked to work with."""


class ImageError(ClipCapError):
    """One picture that cannot be read. Stages skip it and record it; it is fatal only where a person asked for it."""


def one_line(error: BaseException) -> str:
    """The message of an exception of any library on one line, its type where it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
