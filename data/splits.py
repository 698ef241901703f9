"""Drawing the splits that a dataset does not have, by a hash of the picture's id: stable, and never leaking."""

import hashlib
from dataclasses import replace

from clipcap.data.records import Record, Source


def fraction(identifier: str, seed: int) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, evenly spread over ids."""
    digest = hashlib.sha256(f"{seed}:{identifier}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def draw_splits(source: Source, val_fraction: float, seed: int) -> tuple[Source, bool]:
    """Give every record a split; where the dataset has no `val`, draw one from what is to be trained on.

    Returns:
        The source with all splits set, and whether anything was drawn (else the seed had no effect).
    """
    has_val = any(record.split == "val" for record in source.records)

    def split(record: Record) -> str:
        if record.split in ("val", "test"):
            return record.split
        drawn = not has_val and fraction(record.id, seed) < val_fraction
        return "val" if drawn else "train"

    records = [replace(record, split=split(record)) for record in source.records]
    return replace(source, records=records), not has_val and val_fraction > 0
