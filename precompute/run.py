"""A run of stage 1 in this process: each image goes through the encoder once, shard by shard.

A shard is written whole or not at all, so that a later run continues after the shards that are there. The index is
written last. This module knows nothing of command lines.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import UsageError
from clipcap.data.records import Source
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.maker import ShardMaker
from clipcap.precompute.output import Output
from clipcap.precompute.part import WHOLE, Part
from clipcap.precompute.plan import Plan, plan_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def encode_source(
    source: Source,
    output: Output,
    encoder: Encoder,
    tokenizer: "PreTrainedTokenizerBase",
    fingerprint: Fingerprint,
    *,
    workers: int,
    strict: bool,
    part: Part = WHOLE,
    reuse: Sequence[Cache] = (),
    limit: int | None = None,
) -> list[Failure]:
    """Encode all images that no shard has yet. If the output then has all that it should, write the index.

    Args:
        source: all its records have a split.
        output: where the cache goes, locked. Its shards have the same recipe.
        encoder, tokenizer: those that the fingerprint describes.
        fingerprint: the recipe, which includes `batch_size` and `shard_size`.
        workers: number of threads that load images, and on a CPU encode them; 0 does everything in this thread.
        strict: whether the first image that cannot be read ends the run.
        part: the shards that this run makes; other runs make the others, and the last one to end writes the index.
        reuse: caches of the same encoder, whose rows are copied.
        limit: how many images the source was limited to, if it was.

    Returns:
        The images in these shards that could not be read.

    Raises:
        SourceError: an image failed and `strict` is set, or more than half of the images failed, or of the last 1,000.
            Finished shards stay.
        UsageError: more than half of the images in the output would leave it, or some because of `limit`.
        ClipCapError: a shard cannot be written, or is damaged. Finished shards stay.
    """
    plan = plan_output(source, output, fingerprint, reuse, limit)
    todo, done, failures = begin(plan, output, strict, part)
    with Progress("encoding", "images", failures.total, done) as progress:
        maker = ShardMaker(plan, output, encoder, tokenizer, fingerprint, workers=workers)
        entries = plan.finished | maker.make(todo, failures, progress)
    if part != WHOLE:  # what the others have made meanwhile
        plan = plan_output(source, output, fingerprint)
        entries = plan.finished
    finish(plan, entries, output, fingerprint, part)
    return failures.found


def finish(
    plan: Plan, entries: Mapping[int, ShardEntry], output: Output, fingerprint: Fingerprint, part: Part = WHOLE
) -> None:
    """Write the index, if all shards are there, and remove those that have no records any more."""
    if entries.keys() != plan.shards.keys():
        return
    # Where another part holds the lock of the index, it writes the same index at this moment.
    with contextlib.suppress(UsageError), contextlib.nullcontext() if part == WHOLE else output.lock_index():
        write_index(output.index, fingerprint, [entries[number] for number in sorted(entries)])
        for number in plan.empty:
            output.shard(number).unlink(missing_ok=True)


def begin(plan: Plan, output: Output, strict: bool, part: Part = WHOLE) -> tuple[list[int], int, Failures]:
    """Say what exists already of the shards that a run makes, and what has changed since.

    Args:
        plan: of all shards.
        output: where they go.
        strict: whether a failure ends the run.
        part: the shards that the run makes.

    Returns:
        The numbers of the shards that it has to write, the number of images in its shards that are not to be encoded,
        and the failures that its finished shards record.

    Raises:
        SourceError: these failures end the run.
    """
    own = [number for number in plan.shards if part.has(number)]
    todo = [number for number in plan.to_write() if part.has(number)]
    total = sum(len(plan.shards[number]) for number in own)
    done = total - sum(len(plan.to_encode(number)) for number in todo)
    failures = Failures(total=total, strict=strict)
    finished = sorted(set(own) & plan.finished.keys())
    for number in finished:
        for failure in plan.survey.failures[number]:
            failures.add(failure)
    survey = plan.survey
    if finished and not output.index.exists():
        images = sum(len(plan.shards[number]) for number in finished)
        logger.info(f"continuing: {len(finished):,} of {len(own):,} shards ({images:,} of {total:,} images) exist")
    elif done:
        logger.info(f"{plural(total - done, 'image')} to encode, {done:,} known")
    changes = {
        "changed": survey.changed,
        "to be read now": survey.readable,
        "gone": survey.lost,
        "with other captions or another split": survey.rewritten,
    }
    if any(changes.values()):
        logger.info(", ".join(f"{count:,} {what}" for what, count in changes.items() if count))
    return todo, done, failures
