"""Examines a cache or a checkpoint with all checks. A new check is a function and a line in a table below."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from clipcap.caption.inspect.doctor.captions import check_common_captions, check_cut_captions, check_missing_captions
from clipcap.caption.inspect.doctor.checkpoint import CHECKPOINT_CHECKS, check_weights, open_checkpoint
from clipcap.caption.inspect.doctor.content import CacheContent, read_content
from clipcap.caption.inspect.doctor.finding import Facts, Finding
from clipcap.caption.inspect.doctor.norms import check_norms
from clipcap.caption.inspect.doctor.pairing import check_pairing
from clipcap.caption.inspect.doctor.preprocessing import check_preprocessing
from clipcap.caption.inspect.doctor.rows import check_repeated, check_rows
from clipcap.caption.inspect.doctor.splits import check_leaks, check_near_duplicates, check_validation

logger = logging.getLogger(__name__)

# In the order in which findings are shown: those that explain others come first.
CACHE_CHECKS: tuple[Callable[[CacheContent, Facts], Iterator[Finding]], ...] = (
    check_rows,
    check_repeated,
    check_norms,
    check_pairing,
    check_preprocessing,
    check_missing_captions,
    check_common_captions,
    check_cut_captions,
    check_validation,
    check_leaks,
    check_near_duplicates,
)


def examine_cache(path: str | Path) -> tuple[list[Finding], Facts]:
    """Examine a cache.

    The float16 embeddings and all captions are in memory. A cache of 120,000 images, with 512 numbers and five captions
    each, takes 20 s on two cores and 1.5 GB at the peak.

    Args:
        path: the index, or one shard.

    Returns:
        The findings, and figures that are of use without any.

    Raises:
        CacheError: it is not a cache, or it is damaged.
    """
    content = read_content(Path(path))
    facts: Facts = {"cache": str(path), "images": len(content), "captions": len(content.text)}
    first, *others = content.cache.by_encoder()
    if others:
        facts |= {"encoder": first, "not_examined": f"the embeddings of {', '.join(others)}: only those of {first} are"}
    if not len(content):
        return [], facts
    return [finding for check in CACHE_CHECKS for finding in check(content, facts)], facts


def examine_checkpoint(path: str | Path, cache: str | Path | None = None) -> tuple[list[Finding], Facts]:
    """Examine a checkpoint, ours or of another system.

    Args:
        path: the folder of a checkpoint or of a run, or a file of another system.
        cache: a cache with captions, of the encoder that the model was trained on. Without it, only the weights are
            examined.

    Returns:
        The findings, and figures that are of use without any.

    Raises:
        CheckpointError: there is no checkpoint at `path`, it is damaged, or `cache` was made with another encoder.
        ModelError: a part of the model cannot be loaded.
        CacheError: the cache is damaged, or is not one.
        UsageError: the cache has no captions.
    """
    from clipcap.caption.captioner import Captioner

    path = Path(path)
    captioner = Captioner.from_checkpoint(path)
    facts: Facts = {"checkpoint": str(path)}
    findings = list(check_weights(captioner, path))
    if cache is None:
        facts["not_examined"] = "image gap, distinct captions and prefix, which need images: give a `cache`"
        return findings, facts
    examined = open_checkpoint(path, Path(cache), captioner)
    facts |= {"cache": str(cache), "split": examined.split, "images": examined.corpus.images}
    if not findings:
        findings = [finding for check in CHECKPOINT_CHECKS for finding in check(examined, facts)]
    return findings, facts
