"""The loop of stage 1: every picture through the encoder once, shard by shard, each shard whole or not at all.

Knows the source, the encoder and the cache only through their small faces, and nothing of command lines.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry, describe_shard, read_fingerprint, write_index
from clipcap.data.cache.shard import ShardTables, open_hdf5, read_summary, write_shard
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, ImageError, SourceError
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.data.records import SPLITS, Record, Source, storable
from clipcap.precompute.encoder import Encoder
from clipcap.precompute.images import decode_pictures, open_image
from clipcap.precompute.output import Output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NOT_FINITE = "its embedding is not finite in float16"


@dataclass(kw_only=True)
class Failures:
    """Pictures that could not be read, over all shards, and the two rules that make them fatal.

    Args:
        total: pictures in the source.
        strict: whether the first one is fatal.
    """

    total: int
    strict: bool
    pictures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, reason: str) -> None:
        """Count a picture.

        Raises:
            SourceError: with `strict`, or when more than half of all pictures have failed.
        """
        self.pictures.append((path, reason))
        if self.strict:
            raise SourceError(f"{path}: {reason} (--strict: the first picture that cannot be read ends the run)")
        if 2 * len(self.pictures) > self.total:
            raise SourceError(
                f"{len(self.pictures):,} of {self.total:,} pictures could not be read, which is more than half; most "
                f"often: {self.commonest()}; see that SOURCE is the right folder and complete, then run it again"
            )

    def commonest(self) -> str:
        """The reason that most pictures share, with one of them."""
        reason = Counter(reason for _, reason in self.pictures).most_common(1)[0][0]
        return f"{reason} (as {next(path for path, why in self.pictures if why == reason)})"


def encode_source(
    source: Source,
    output: Output,
    encoder: Encoder,
    tokenizer: "PreTrainedTokenizerBase",
    fingerprint: Fingerprint,
    *,
    workers: int,
    strict: bool,
) -> list[tuple[str, str]]:
    """Encode all that is not yet in the output's shards, then write the index.

    Args:
        source: with all splits set.
        output: where the cache goes; shards of this recipe that are there already are kept.
        encoder, tokenizer: as the fingerprint says.
        fingerprint: the recipe, `batch_size` and `shard_size` included.
        workers: processes that decode pictures; 0 decodes in this one.
        strict: the first picture that cannot be read is fatal.

    Returns:
        (path, reason) of every picture that could not be read.

    Raises:
        SourceError: a picture failed and `strict`, or more than half failed. Finished shards stay.
        ClipCapError: a shard cannot be written. Finished shards stay.
    """
    failures = Failures(total=len(source.records), strict=strict)
    plan = plan_shards(len(source.records), fingerprint.shard_size)
    entries: dict[int, ShardEntry] = {}
    for number, share in enumerate(plan):
        entry = _finished(output.shard(number), number, len(share), fingerprint, source.root, failures)
        if entry is not None:
            entries[number] = entry
    todo = [number for number in range(len(plan)) if number not in entries]
    done = sum(len(plan[number]) for number in entries)
    if done:
        logger.info(
            f"going on: {len(entries):,} of {len(plan):,} shards are there ({done:,} of {failures.total:,} pictures)"
        )

    batches = {number: _batches(plan[number], fingerprint.batch_size) for number in todo}
    paths = [source.root / record.path for record in source.records]
    everything = [batch for number in todo for batch in batches[number]]
    decoded = iter(decode_pictures(paths, encoder.transform, everything, workers))
    output.prepare()
    with Progress("encoding", "pictures", failures.total, done) as progress:
        for number in todo:
            records = [source.records[i] for i in plan[number]]
            rows: list[np.ndarray[Any, Any]] = []
            reasons: list[str | None] = []
            for _ in batches[number]:
                embedding, batch_reasons = _encode(encoder, *next(decoded))
                rows.append(embedding)
                for record, reason in zip(records[len(reasons) :], batch_reasons, strict=False):
                    if reason is not None:
                        failures.add(record.path, reason)
                reasons.extend(batch_reasons)
                progress.advance(len(batch_reasons), skipped=len(batch_reasons) - len(embedding))
            tables = build_tables(records, np.concatenate(rows), reasons, tokenizer)
            path = output.shard(number)
            content = write_shard(path, tables, fingerprint.to_json(), number)
            images, captions, tokens = tables.counts
            entries[number] = ShardEntry(path=path, images=images, captions=captions, tokens=tokens, content=content)
    write_index(output.index, fingerprint, [entries[number] for number in range(len(plan))])
    return failures.pictures


def build_tables(
    records: list[Record],
    embedding: np.ndarray[Any, Any],
    reasons: list[str | None],
    tokenizer: "PreTrainedTokenizerBase",
) -> ShardTables:
    """The tables of one shard.

    Args:
        records: the shard's share of the source.
        embedding: float16 (n, d), the rows of those records whose reason is None, in order.
        reasons: for each record None, or why it could not be read.
        tokenizer: of the language model.
    """
    kept = [record for record, reason in zip(records, reasons, strict=True) if reason is None]
    failed = [(record.path, reason) for record, reason in zip(records, reasons, strict=True) if reason is not None]
    captions = [[text for text in map(storable, record.captions) if text.strip()] for record in kept]
    texts = [text for group in captions for text in group]
    tokens = encode_captions(tokenizer, texts)
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    return ShardTables(
        embedding=embedding,
        id=[storable(record.id) for record in kept],
        path=[storable(record.path) for record in kept],
        split=np.array([SPLITS.index(record.split or "train") for record in kept], dtype=np.uint8),
        first_caption=np.cumsum([0, *(len(group) for group in captions)], dtype=np.int64),
        text=texts,
        first_token=np.cumsum([0, *(len(row) for row in tokens)], dtype=np.int64),
        token=np.array([token for row in tokens for token in row], dtype=dtype),
        failure_path=[storable(path) for path, _ in failed],
        failure_reason=[storable(reason) for _, reason in failed],
    )


def plan_shards(records: int, shard_size: int) -> list[range]:
    """Each shard's share of the records."""
    return [range(start, min(start + shard_size, records)) for start in range(0, records, shard_size)]


def _batches(share: range, batch_size: int) -> list[list[int]]:
    """A shard's records in batches.

    None crosses into the next shard, so that a shard does not depend on where a run began.
    """
    return [list(share[start : start + batch_size]) for start in range(0, len(share), batch_size)]


def _encode(
    encoder: Encoder, pixels: torch.Tensor, reasons: list[str | None]
) -> tuple[np.ndarray[Any, Any], list[str | None]]:
    """Embed one batch as float16 rows; a row that is not finite becomes a failure of its picture, never a row."""
    if not len(pixels):
        return np.empty((0, *encoder.shape), dtype=np.float16), reasons
    embedding = _encode_in_memory(encoder, pixels).numpy().astype(np.float16)
    finite = np.asarray(np.isfinite(embedding.reshape(len(embedding), -1)).all(axis=1))
    row = iter(finite.tolist())
    bad = f"{NOT_FINITE} (--precision {encoder.precision})"
    reasons = [(None if next(row) else bad) if reason is None else reason for reason in reasons]
    return embedding[finite], reasons


def _encode_in_memory(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Embed a batch; where the device's memory does not hold it, in halves."""
    try:
        return encoder.encode(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    half = len(pixels) // 2
    logger.warning(
        f"a batch of {len(pixels)} pictures does not fit into memory; going on with {half} (--batch-size says how many)"
    )
    return torch.cat([_encode_in_memory(encoder, pixels[:half]), _encode_in_memory(encoder, pixels[half:])])


def _finished(
    path: Path, number: int, records: int, fingerprint: Fingerprint, root: Path, failures: Failures
) -> ShardEntry | None:
    """The shard at `path` if an earlier run of this recipe finished it.

    One that is broken is made again, and one with a picture that failed then but can be read now.
    """
    if not path.exists():
        return None
    try:
        with open_hdf5(path) as file:
            entry = describe_shard(path, file)
            recipe = read_fingerprint(path, file)
            right = file.attrs["shard"] == number
        _, failed = read_summary(path)
    except CacheError as error:
        logger.warning(f"{path.name} is made again: {error}")
        return None
    if not right or entry.images + len(failed) != records or fingerprint.differences(recipe):
        logger.warning(f"{path.name} is made again: it is not shard {number} of this run")
        return None
    for picture, reason in failed:
        if reason.startswith(NOT_FINITE) or not _readable(root / picture):
            continue
        logger.info(f"{path.name} is made again: {picture} can be read now")
        return None
    for picture, reason in failed:
        failures.add(picture, reason)
    return entry


def _readable(path: Path) -> bool:
    try:
        open_image(path)
    except ImageError:
        return False
    return True
