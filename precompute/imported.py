"""Stage 1 without an encoder: embeddings that exist become a cache, whose recipe says what is known of them."""

from typing import TYPE_CHECKING

import numpy as np

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry, write_index
from clipcap.data.cache.shard import write_shard
from clipcap.data.command.progress import Progress
from clipcap.data.records import Source
from clipcap.precompute.output import Output
from clipcap.precompute.run import build_tables, plan_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_FINITE = "its row is not finite in float16"


def write_embeddings(
    source: Source, output: Output, tokenizer: "PreTrainedTokenizerBase", fingerprint: Fingerprint
) -> list[tuple[str, str]]:
    """Write the cache of a source that brings its embeddings.

    Args:
        source: with `embedding`, one row a record, and splits.
        output: where the cache goes.
        tokenizer: of the language model.
        fingerprint: the recipe, `shard_size` included.

    Returns:
        (path, reason) of every row that holds no finite numbers.

    Raises:
        ClipCapError: a shard cannot be written.
    """
    assert source.embedding is not None
    output.prepare()
    entries: list[ShardEntry] = []
    failed: list[tuple[str, str]] = []
    with Progress("importing", "rows", len(source.records)) as progress:
        for number, share in enumerate(plan_shards(len(source.records), fingerprint.shard_size)):
            records = [source.records[i] for i in share]
            with np.errstate(over="ignore"):  # what does not fit is found below
                rows = source.embedding[share.start : share.stop].astype(np.float16)
            finite = np.asarray(np.isfinite(rows).all(axis=1))
            reasons: list[str | None] = [None if fine else NOT_FINITE for fine in finite.tolist()]
            tables = build_tables(records, rows[finite], reasons, tokenizer)
            path = output.shard(number)
            content = write_shard(path, tables, fingerprint.to_json(), number)
            images, captions, tokens = tables.counts
            entries.append(ShardEntry(path=path, images=images, captions=captions, tokens=tokens, content=content))
            failed += [(record.path, NOT_FINITE) for record, reason in zip(records, reasons, strict=True) if reason]
            progress.advance(len(records), skipped=int((~finite).sum()))
    write_index(output.index, fingerprint, entries)
    return failed
