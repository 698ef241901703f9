"""Shards of the cache that stage 1 writes: which records belong to each, their tables, and their files."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry
from clipcap.data.cache.scale import LEAST_NORMAL, magnitudes
from clipcap.data.cache.shard import SUM_BYTES, ShardTables, write_shard
from clipcap.data.command.progress import plural
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.data.records import SPLITS, Record, storable
from clipcap.precompute.stamp import Stamp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def plan_shards(records: int, shard_size: int) -> list[range]:
    """Divide the records, by number, among shards of `shard_size`; the last one may be smaller."""
    return [range(start, min(start + shard_size, records)) for start in range(0, records, shard_size)]


def build_tables(
    records: list[Record],
    embedding: NDArray[Any],
    outcomes: Sequence[Stamp | str | None],
    tokenizer: "PreTrainedTokenizerBase",
    views: list[int] | None = None,
    scale: float = 1.0,
) -> ShardTables:
    """Build the tables of a shard. Captions are tokenised, and empty ones left out.

    Args:
        records: all n records of the shard.
        embedding: float16 (m, d) or (m, t, d): a row for each record that has one, in their order, each with the rows
            of its views after it.
        outcomes: for each of the n records, its image's stamp; None where its row was made elsewhere; or why it has no
            row.
        tokenizer: of the language model.
        views: for each of the n records, the number of its views; None if the cache has no views.
        scale: that the embeddings are divided by.
    """
    view = first_view = None
    if views is not None:
        kept_views = [count for count, one in zip(views, outcomes, strict=True) if not isinstance(one, str)]
        first_view = np.cumsum([0, *kept_views], dtype=np.int64)
        is_view = np.ones(len(embedding), dtype=bool)
        is_view[first_view[:-1] + np.arange(len(kept_views))] = False
        embedding, view = embedding[~is_view], embedding[is_view]
    kept = [record for record, one in zip(records, outcomes, strict=True) if not isinstance(one, str)]
    failed = [(record.path, one) for record, one in zip(records, outcomes, strict=True) if isinstance(one, str)]
    stamps = [one for one in outcomes if isinstance(one, Stamp)]
    captions = [stored_captions(record) for record in kept]
    tables = ShardTables(
        embedding=embedding,
        id=[storable(record.id) for record in kept],
        path=[storable(record.path) for record in kept],
        split=np.array([SPLITS.index(record.split or "train") for record in kept], dtype=np.uint8),
        first_caption=np.cumsum([0, *(len(group) for group in captions)], dtype=np.int64),
        text=[text for group in captions for text in group],
        first_token=np.zeros(1, np.int64),
        token=np.zeros(0, np.uint16),
        failure_path=[storable(path) for path, _ in failed],
        failure_reason=[storable(reason) for _, reason in failed],
        view=view,
        first_view=first_view,
        scale=scale,
    )
    if scale > 1:
        _warn_of_lost_digits(tables)
    if stamps and len(stamps) == len(kept):
        sums = np.frombuffer(b"".join(stamp.sum for stamp in stamps), np.uint8).reshape(-1, SUM_BYTES)
        files = np.array([stamp.file for stamp in stamps], np.int64).reshape(-1, 2)
        tables = replace(tables, sum=sums, file_size=files[:, 0].copy(), file_time=files[:, 1].copy())
    return with_tokens(tables, tokenizer)


def _warn_of_lost_digits(tables: ShardTables) -> None:
    """Warn of an embedding that is so large that its scale takes digits of others."""
    magnitude = magnitudes(tables.embedding)
    few = int((magnitude < LEAST_NORMAL).sum())
    if few:
        largest = int(magnitude.argmax())
        logger.warning(
            f"the embedding of {tables.path[largest]} reaches {magnitude[largest] * tables.scale:.3g}, beside which "
            f"float16 keeps fewer digits of {plural(few, 'other embedding')}; if that image is broken, leave it out "
            "and give `overwrite`"
        )


def stored_captions(record: Record) -> list[str]:
    """Return the captions of a record as a cache has them: without the empty ones."""
    return [text for text in map(storable, record.captions) if text.strip()]


def with_tokens(tables: ShardTables, tokenizer: "PreTrainedTokenizerBase") -> ShardTables:
    """Return the tables with the tokens that a tokenizer makes of their captions."""
    tokens = encode_captions(tokenizer, tables.text)
    return replace(
        tables,
        first_token=np.cumsum([0, *(len(row) for row in tokens)], dtype=np.int64),
        token=np.array(
            [token for row in tokens for token in row], dtype=np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
        ),
    )


def store_tables(
    path: Path, tables: ShardTables, fingerprint: Fingerprint, number: int, further: Sequence[Fingerprint] = ()
) -> ShardEntry:
    """Write the tables of shard `number` to its file, and return its entry in the index.

    Args:
        path: its file.
        tables: the rows.
        fingerprint: the recipe.
        number: of the shard.
        further: the recipe of each encoder in `tables.further`.

    Raises:
        ClipCapError: the file cannot be written.
    """
    content = write_shard(path, tables, fingerprint.to_json(), number, [one.to_json() for one in further])
    images, captions, tokens = tables.counts
    return ShardEntry(path=path, images=images, captions=captions, tokens=tokens, content=content)
