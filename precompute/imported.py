"""Stage 1 without an encoder: existing embeddings become a cache, whose fingerprint says what is known about them."""

from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.data.cache.fingerprint import UNKNOWN, Fingerprint
from clipcap.data.cache.index import ShardEntry, write_index
from clipcap.data.cache.scale import magnitudes, scale_of, storable, to_float16
from clipcap.data.command.progress import Progress
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS
from clipcap.data.records import Source
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.output import Output
from clipcap.precompute.settings import DEFAULT_PRETRAINED
from clipcap.precompute.shards import build_tables, plan_shards, store_tables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_FINITE = "its row is not finite, or beyond 4.3e9"


def import_embeddings(
    source: Source, output: Output, tokenizer: "PreTrainedTokenizerBase", fingerprint: Fingerprint, *, strict: bool
) -> list[Failure]:
    """Write the cache of a source that consists of embeddings.

    Args:
        source: its `embedding` is float (n, d), one row for each record; all records have a split.
        output: where the cache goes, locked.
        tokenizer: of the language model.
        fingerprint: the recipe, which includes `shard_size`.
        strict: whether the first row that is not finite ends the run.

    Returns:
        The images whose row is not finite, or beyond what a shard can hold. They are not in the cache.

    Raises:
        SourceError: a row is not finite and `strict` is set.
        ClipCapError: a shard cannot be written.
    """
    assert source.embedding is not None
    total = len(source.records)
    failures = Failures(total=total, strict=strict, half_is_fatal=False)
    entries: list[ShardEntry] = []
    with Progress("importing", "rows", total) as progress:
        for number, share in enumerate(plan_shards(total, fingerprint.shard_size)):
            records = [source.records[i] for i in share]
            rows = source.embedding[share.start : share.stop]
            magnitude = magnitudes(rows)
            finite = storable(magnitude)
            scale = scale_of(magnitude[finite])
            reasons = [None if is_finite else NOT_FINITE for is_finite in finite.tolist()]
            for record, reason in zip(records, reasons, strict=True):
                if reason is not None:
                    failures.add(Failure(record.path, reason))
            tables = build_tables(records, to_float16(rows[finite], scale), reasons, tokenizer, scale=scale)
            entries.append(store_tables(output.shard(number), tables, fingerprint, number))
            progress.advance(len(records), skipped=len(records) - tables.counts[0])
    write_index(output.index, fingerprint, entries)
    return failures.found


def recorded_names(encoder: str | None, pretrained: str | None) -> tuple[str, str]:
    """Return what the fingerprint records as `encoder` and `pretrained` of existing embeddings.

    Relative paths become absolute, so that the encoder can be found from another folder. It is not loaded.

    Args:
        encoder: the encoder that computed the embeddings, or None if it is unknown.
        pretrained: its weights, or None for the default.
    """
    if encoder is None:
        return UNKNOWN, UNKNOWN
    if encoder in BUNDLED_ENCODERS or encoder.startswith("hf-hub:"):
        return encoder, encoder
    if Path(encoder).is_dir():
        return Path(encoder).name, str(Path(encoder).resolve())
    if pretrained is not None and Path(pretrained).exists():
        pretrained = str(Path(pretrained).resolve())
    return encoder.replace("/", "-"), pretrained or DEFAULT_PRETRAINED
