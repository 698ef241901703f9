"""The loop of stage 1: each image goes through the encoder once, shard by shard.

A shard is written whole or not at all, so that a later run continues after the shards that are there. While a shard is
written, the next one is encoded. This module knows nothing of command lines.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry, describe_shard, read_fingerprint, write_index
from clipcap.data.cache.shard import open_hdf5, read_summary
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.records import Record, Source
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.output import Output
from clipcap.precompute.part import WHOLE, Part
from clipcap.precompute.pipeline import NOT_FINITE, Embedded, embed
from clipcap.precompute.shards import build_tables, plan_shards, store_tables
from clipcap.precompute.views import view_counts

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
) -> list[Failure]:
    """Encode all images that are not in finished shards of the output. If all shards are there then, write the index.

    Args:
        source: all its records have a split.
        output: where the cache goes, locked. Shards with the same fingerprint are kept.
        encoder, tokenizer: those that the fingerprint describes.
        fingerprint: the recipe, which includes `batch_size` and `shard_size`.
        workers: number of threads that load images, and on a CPU encode them; 0 does everything in this thread.
        strict: whether the first image that cannot be read ends the run.
        part: the shards that this run makes; other runs make the others, and the last one to end writes the index.

    Returns:
        The images in these shards that could not be read.

    Raises:
        SourceError: an image failed and `strict` is set, or more than half of the images failed, or of the last 1,000.
            Finished shards stay.
        ClipCapError: a shard cannot be written. Finished shards stay.
    """
    records = source.records
    plan = plan_shards(len(records), fingerprint.shard_size)
    own = {number: share for number, share in enumerate(plan) if part.has(number)}
    total = sum(map(len, own.values()))
    failures = Failures(total=total, strict=strict)
    views = view_counts(records, fingerprint.views)
    height, width = encoder.preprocess["size"]
    loader = Loader(source.images, encoder.transform, (height, width))
    entries = _finished_shards(loader, own, output, fingerprint, failures)
    done = sum(len(plan[number]) for number in entries)
    if done:
        logger.info(f"continuing: {len(entries):,} of {len(own):,} shards ({done:,} of {total:,} images) exist")

    todo = [number for number in own if number not in entries]
    batches = (
        [Item(records[i].path, views[i]) for i in batch]
        for number in todo
        for batch in _batches(plan[number], fingerprint.batch_size)
    )
    embedded = embed(batches, loader, encoder, workers)  # nothing starts before the first batch is taken
    writing: dict[int, Future[ShardEntry]] = {}

    def write(number: int, rows: NDArray[np.float16], reasons: list[str | None]) -> ShardEntry:
        share = plan[number]
        shard_views = [views[i] for i in share] if fingerprint.views else None
        tables = build_tables([records[i] for i in share], rows, reasons, tokenizer, shard_views)
        return store_tables(output.shard(number), tables, fingerprint, number)

    with (
        Progress("encoding", "images", total, done) as progress,
        ThreadPoolExecutor(1) as writer,
        contextlib.closing(embedded),
    ):
        for number in todo:
            rows, reasons = _shard([records[i] for i in plan[number]], embedded, failures, progress)
            for future in writing.values():  # one shard at a time is written, and one is encoded
                future.result()
            writing[number] = writer.submit(write, number, rows, reasons)
    entries |= {number: future.result() for number, future in writing.items()}
    others = {number: share for number, share in enumerate(plan) if number not in own}
    entries |= _shards_of_others(others, output, fingerprint)
    if len(entries) == len(plan):
        # Where a part holds the lock of the whole, it writes the same index at this moment.
        with contextlib.suppress(UsageError), contextlib.nullcontext() if part == WHOLE else output.lock():
            write_index(output.index, fingerprint, [entries[number] for number in range(len(plan))])
    return failures.found


def _batches(share: range, batch_size: int) -> Iterator[range]:
    """Divide the records of one shard into batches.

    No batch reaches into the next shard, so the content of a shard does not depend on where a run began.
    """
    return (share[start : start + batch_size] for start in range(0, len(share), batch_size))


def _shard(
    records: list[Record], embedded: Iterator[Embedded], failures: Failures, progress: Progress
) -> tuple[NDArray[np.float16], list[str | None]]:
    """Take the batches of one shard, and count the images that fail.

    Args:
        records: of the shard.
        embedded: the batches, of which those of the shard are next.
        failures: counts the images.
        progress: shows the images that are done, and which share of the time loading takes.

    Returns:
        float16 (m, d) or (m, t, d), the rows of the images that did not fail, each with the rows of its views after
        it; and for each record None or its reason.
    """
    rows: list[NDArray[np.float16]] = []
    reasons: list[str | None] = []
    loading = encoding = 0.0
    while len(reasons) < len(records):
        batch = next(embedded)
        for reason in batch.reasons:
            failures.count(records[len(reasons)].path, reason)
            reasons.append(reason)
        rows.append(batch.rows)
        loading, encoding = loading + batch.loading, encoding + batch.encoding
        skipped = sum(reason is not None for reason in batch.reasons)
        remark = f"{loading / max(loading + encoding, 1e-9):.0%} loading"
        progress.advance(len(batch.reasons), skipped=skipped, remark=remark)
    return np.concatenate(rows), reasons


def _finished_shards(
    loader: Loader, plan: Mapping[int, range], output: Output, fingerprint: Fingerprint, failures: Failures
) -> dict[int, ShardEntry]:
    """Find the shards of this run that an earlier one finished, by number, and count the failures that they record."""
    entries: dict[int, ShardEntry] = {}
    for number, path in _existing(plan, output):
        try:
            entry, failed = _read_finished(path, number, len(plan[number]), fingerprint)
            readable = next((one.path for one in failed if _can_be_loaded_now(one, loader)), None)
            if readable is not None:
                raise CacheError(f"{readable} can be read now")
        except CacheError as error:
            logger.info(f"{path.name} is rebuilt: {error}")
            continue
        entries[number] = entry
        for failure in failed:
            failures.add(failure)
    return entries


def _shards_of_others(plan: Mapping[int, range], output: Output, fingerprint: Fingerprint) -> dict[int, ShardEntry]:
    """Find the shards of other parts that are finished, by number."""
    entries: dict[int, ShardEntry] = {}
    for number, path in _existing(plan, output):
        try:
            entries[number], _ = _read_finished(path, number, len(plan[number]), fingerprint)
        except CacheError as error:
            logger.warning(f"{path.name} does not count: {error}; give all parts the same settings")
    return entries


def _existing(plan: Mapping[int, range], output: Output) -> Iterator[tuple[int, Path]]:
    """Yield the number and the file of the shards of a plan that are there, finished or not."""
    return ((number, output.shard(number)) for number in plan if output.shard(number).exists())


def _read_finished(path: Path, number: int, records: int, fingerprint: Fingerprint) -> tuple[ShardEntry, list[Failure]]:
    """Read the entry and the failures of a shard that another run wrote.

    Raises:
        CacheError: the shard is missing or damaged, or belongs to another run.
    """
    with open_hdf5(path) as file:
        entry = describe_shard(path, file)
        recipe = read_fingerprint(path, file)
        same_number = file.attrs["shard"] == number
    failed = [Failure(*failure) for failure in read_summary(path)[1]]
    differences = fingerprint.differences(recipe)
    if not same_number or entry.images + len(failed) != records or differences:
        raise CacheError(f"it is not shard {number} of this run" + (f" ({differences[0]})" if differences else ""))
    return entry, failed


def _can_be_loaded_now(failure: Failure, loader: Loader) -> bool:
    return not failure.reason.startswith(NOT_FINITE) and loader([Item(failure.path)]).reasons == [None]
