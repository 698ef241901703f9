"""The loop of stage 1: each image goes through the encoder once, shard by shard.

A shard is written whole or not at all, so that a later run continues after the shards that are there. While a shard is
written, the next one is encoded. This module knows nothing of command lines.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, write_index
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import UsageError
from clipcap.data.records import Record, Source
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.output import Output
from clipcap.precompute.part import WHOLE, Part
from clipcap.precompute.pipeline import Embedded, embed
from clipcap.precompute.plan import Plan, Records, plan_output
from clipcap.precompute.rows import Rows
from clipcap.precompute.stamp import Stamp
from clipcap.precompute.views import views_of
from clipcap.precompute.writer import ShardWriter

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
    own = {number: share for number, share in plan.shards.items() if part.has(number)}
    total = sum(map(len, own.values()))
    failures = Failures(total=total, strict=strict)
    for number in own.keys() & plan.finished.keys():
        for failure in plan.survey.failures[number]:
            failures.add(failure)
    to_encode = {number: plan.to_encode(number) for number in plan.to_write() if number in own}
    done = total - sum(map(len, to_encode.values()))
    _announce(plan, own, done, output)

    height, width = encoder.preprocess["size"]
    loader = Loader(source.images, encoder.transform, (height, width))
    batches = (
        [Item(source.records[i].path, views_of(source.records[i], fingerprint.views)) for i in batch]
        for numbers in to_encode.values()
        for batch in _batches(numbers, fingerprint.batch_size)
    )
    embedded = embed(batches, loader, encoder, workers)  # nothing starts before the first batch is taken
    with (
        Progress("encoding", "images", total, done) as progress,
        ShardWriter(plan, output, tokenizer, fingerprint) as writer,
        contextlib.closing(embedded),
    ):
        taker = _Taker(source.records, fingerprint.views, encoder.shape, embedded, failures, progress, writer.check)
        for number, numbers in to_encode.items():
            writer.put(number, taker.take(numbers))
        entries = plan.finished | writer.entries()
    if part != WHOLE:  # what the others have made meanwhile
        plan = plan_output(source, output, fingerprint)
        entries = plan.finished
    if entries.keys() == plan.shards.keys():
        # Where a part holds the lock of the whole, it writes the same index at this moment.
        with contextlib.suppress(UsageError), contextlib.nullcontext() if part == WHOLE else output.lock():
            write_index(output.index, fingerprint, [entries[number] for number in sorted(entries)])
            for number in plan.empty:
                output.shard(number).unlink(missing_ok=True)
    return failures.found


def _announce(plan: Plan, own: Mapping[int, Records], done: int, output: Output) -> None:
    """Say what exists already, and what has changed since."""
    survey, total = plan.survey, sum(map(len, own.values()))
    finished = own.keys() & plan.finished.keys()
    if finished and not output.index.exists():
        images = sum(len(own[number]) for number in finished)
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


def _batches(records: Records, batch_size: int) -> Iterator[Records]:
    """Divide the records of one shard into batches.

    No batch reaches into the next shard, so the content of a shard does not depend on where a run began.
    """
    return (records[start : start + batch_size] for start in range(0, len(records), batch_size))


@dataclass(frozen=True)
class _Taker:
    """Takes the batches of one shard after the other, and counts the images that fail.

    Attributes:
        records: all records.
        views: that each training image has.
        shape: of an embedding.
        embedded: the batches, of which those of the next shard are next.
        failures: counts the images.
        progress: shows the images that are done, and which share of the time loading takes.
        check: raises what ends the run, if it is known already.
    """

    records: Sequence[Record]
    views: int
    shape: tuple[int, ...]
    embedded: Iterator[Embedded]
    failures: Failures
    progress: Progress
    check: Callable[[], None]

    def take(self, numbers: Records) -> Rows:
        """Return the rows of the records of a shard that are encoded."""
        records = [self.records[i] for i in numbers]
        rows: list[NDArray[np.float16]] = [np.empty((0, *self.shape), np.float16)]
        outcomes: list[Stamp | str] = []
        loading = encoding = 0.0
        while len(outcomes) < len(records):
            batch = next(self.embedded)
            for outcome in batch.outcomes:
                self.failures.count(records[len(outcomes)].path, outcome if isinstance(outcome, str) else None)
                outcomes.append(outcome)
            rows.append(batch.rows)
            loading, encoding = loading + batch.loading, encoding + batch.encoding
            skipped = sum(isinstance(outcome, str) for outcome in batch.outcomes)
            remark = f"{loading / max(loading + encoding, 1e-9):.0%} loading"
            self.progress.advance(len(batch.outcomes), skipped=skipped, remark=remark)
            self.check()
        pairs = zip(records, outcomes, strict=True)
        counts = [0 if isinstance(one, str) else 1 + views_of(record, self.views) for record, one in pairs]
        return Rows(numbers, np.concatenate(rows), np.array(counts, np.int64), outcomes)
