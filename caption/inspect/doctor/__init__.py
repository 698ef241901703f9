"""The doctor: finds what is wrong with a cache or a checkpoint, the likeliest cause, and the command that fixes it."""

from clipcap.caption.inspect.doctor.examine import examine_cache, examine_checkpoint
from clipcap.caption.inspect.doctor.finding import Facts, Finding

__all__ = ["Facts", "Finding", "examine_cache", "examine_checkpoint"]
