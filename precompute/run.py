"""The loop of stage 1: each image goes through the encoder once, shard by shard.

A shard is written whole or not at all, so that a later run continues after the shards that are there. This module
knows nothing of command lines.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry, describe_shard, read_fingerprint, write_index
from clipcap.data.cache.shard import open_hdf5, read_summary
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, ImageError
from clipcap.data.image_store import ImageStore
from clipcap.data.records import Record, Source
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.images import Decoded, decode_image, decode_images
from clipcap.precompute.output import Output
from clipcap.precompute.shards import build_tables, plan_shards, store_tables
from clipcap.precompute.views import view_counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Stored in shards as the reason of a failure; a later run does not try such images again.
NOT_FINITE = "its embedding is not finite in float16"


def encode_source(
    source: Source,
    output: Output,
    encoder: Encoder,
    tokenizer: "PreTrainedTokenizerBase",
    fingerprint: Fingerprint,
    *,
    workers: int,
    strict: bool,
) -> list[Failure]:
    """Encode all images that are not in finished shards of the output, then write the index.

    Args:
        source: all its records have a split.
        output: where the cache goes, locked. Shards with the same fingerprint are kept.
        encoder, tokenizer: those that the fingerprint describes.
        fingerprint: the recipe, which includes `batch_size` and `shard_size`.
        workers: number of processes that decode images; 0 decodes them in this process.
        strict: whether the first image that cannot be read ends the run.

    Returns:
        The images that could not be read.

    Raises:
        SourceError: an image failed and `strict` is set, or more than half of the images failed. Finished shards stay.
        ClipCapError: a shard cannot be written. Finished shards stay.
    """
    records = source.records
    plan = plan_shards(len(records), fingerprint.shard_size)
    failures = Failures(total=len(records), strict=strict)
    entries = _finished_shards(source, plan, output, fingerprint, failures)
    done = sum(len(plan[number]) for number in entries)
    if done:
        logger.info(f"continuing: {len(entries):,} of {len(plan):,} shards ({done:,} of {len(records):,} images) exist")

    todo = {
        number: _batches(share, fingerprint.batch_size) for number, share in enumerate(plan) if number not in entries
    }
    paths = [record.path for record in records]
    every_batch = [batch for batches in todo.values() for batch in batches]
    views = view_counts(records, fingerprint.views)
    height, width = encoder.preprocess["size"]
    decoded = iter(decode_images(source.images, paths, encoder.transform, every_batch, workers, views, (height, width)))
    with Progress("encoding", "images", len(records), done) as progress:
        for number, batches in todo.items():
            share = [records[i] for i in plan[number]]
            shard_views = [views[i] for i in plan[number]]
            rows, reasons = _encode_shard(
                share, shard_views, islice(decoded, len(batches)), encoder, failures, progress
            )
            tables = build_tables(share, rows, reasons, tokenizer, shard_views if fingerprint.views else None)
            entries[number] = store_tables(output.shard(number), tables, fingerprint, number)
    write_index(output.index, fingerprint, [entries[number] for number in range(len(plan))])
    return failures.found


def _batches(share: range, batch_size: int) -> list[list[int]]:
    """Divide the records of one shard into batches.

    No batch reaches into the next shard, so the content of a shard does not depend on where a run began.
    """
    return [list(share[start : start + batch_size]) for start in range(0, len(share), batch_size)]


def _encode_shard(
    records: list[Record],
    views: list[int],
    decoded: Iterator[Decoded],
    encoder: Encoder,
    failures: Failures,
    progress: Progress,
) -> tuple[NDArray[np.float16], list[str | None]]:
    """Encode the batches of one shard, and count the images that fail.

    Args:
        records: of the shard.
        views: for each record, how many views of it are encoded.
        decoded: what `decode_images` made of each batch.
        encoder: the image encoder.
        failures: counts the images that fail.
        progress: shows the images that are done.

    Returns:
        float16 (m, d) or (m, t, d), the rows of the images that did not fail, each with the rows of its views after
        it; and for each record None or its reason.
    """
    rows: list[NDArray[np.float16]] = []
    reasons: list[str | None] = []
    for pixels, unreadable in decoded:
        batch = slice(len(reasons), len(reasons) + len(unreadable))
        embedding, batch_reasons = _encode_batch(encoder, pixels, unreadable, views[batch])
        for record, reason in zip(records[batch], batch_reasons, strict=True):
            if reason is not None:
                failures.add(Failure(record.path, reason))
        rows.append(embedding)
        reasons.extend(batch_reasons)
        progress.advance(len(batch_reasons), skipped=sum(reason is not None for reason in batch_reasons))
    return np.concatenate(rows), reasons


def _encode_batch(
    encoder: Encoder, pixels: torch.Tensor, reasons: Sequence[str | None], views: Sequence[int]
) -> tuple[NDArray[np.float16], list[str | None]]:
    """Encode one batch. An image that has an embedding which is not finite fails, like one that could not be read.

    Args:
        encoder: the image encoder.
        pixels: uint8 (m, H, W, 3), the images that could be read, each with its views after it.
        reasons: for each of the B images in the batch, None or why it could not be read.
        views: for each of the B images, how many views it has.

    Returns:
        float16 (m', d) or (m', t, d), and for each of the B images None or why it has no row.
    """
    if not len(pixels):
        return np.empty((0, *encoder.shape), dtype=np.float16), list(reasons)
    parts = pixels.split(len(reasons))  # with views there are more pictures than fit into a batch
    embedding = np.concatenate([_encode_in_memory(encoder, part).numpy().astype(np.float16) for part in parts])
    finite = np.isfinite(embedding.reshape(len(embedding), -1)).all(axis=1)
    pictures = [1 + count for count, reason in zip(views, reasons, strict=True) if reason is None]
    image_is_finite = np.logical_and.reduceat(finite, np.cumsum([0, *pictures[:-1]]))
    next_is_finite = iter(image_is_finite.tolist())
    not_finite = f"{NOT_FINITE} (computed in {encoder.precision})"
    all_reasons = [(None if next(next_is_finite) else not_finite) if reason is None else reason for reason in reasons]
    return embedding[np.repeat(image_is_finite, pictures)], all_reasons


def _encode_in_memory(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Encode a batch; if the device's memory does not suffice, encode it in halves."""
    try:
        return encoder.encode(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    half = len(pixels) // 2
    logger.warning(f"a batch of {len(pixels)} images does not fit into memory; using {half} (see `batch_size`)")
    return torch.cat([_encode_in_memory(encoder, pixels[:half]), _encode_in_memory(encoder, pixels[half:])])


def _finished_shards(
    source: Source, plan: list[range], output: Output, fingerprint: Fingerprint, failures: Failures
) -> dict[int, ShardEntry]:
    """Find the shards that an earlier run finished, by number, and count the failures that they record."""
    entries: dict[int, ShardEntry] = {}
    for number, share in enumerate(plan):
        path = output.shard(number)
        if not path.exists():
            continue
        try:
            entry, failed = _read_finished(path, number, len(share), fingerprint, source.images)
        except CacheError as error:
            logger.info(f"{path.name} is rebuilt: {error}")
            continue
        entries[number] = entry
        for failure in failed:
            failures.add(failure)
    return entries


def _read_finished(
    path: Path, number: int, records: int, fingerprint: Fingerprint, images: ImageStore
) -> tuple[ShardEntry, list[Failure]]:
    """Read the entry and the failures of a shard that an earlier run wrote.

    Raises:
        CacheError: the shard is damaged, belongs to another run, or records a failure of an image that can be read now.
    """
    with open_hdf5(path) as file:
        entry = describe_shard(path, file)
        recipe = read_fingerprint(path, file)
        same_number = file.attrs["shard"] == number
    failed = [Failure(*failure) for failure in read_summary(path)[1]]
    if not same_number or entry.images + len(failed) != records or fingerprint.differences(recipe):
        raise CacheError(f"it is not shard {number} of this run")
    for failure in failed:
        if not failure.reason.startswith(NOT_FINITE) and _is_readable(images, failure.path):
            raise CacheError(f"{failure.path} can be read now")
    return entry, failed


def _is_readable(images: ImageStore, path: str) -> bool:
    try:
        decode_image(images.read(path))
    except ImageError:
        return False
    return True
