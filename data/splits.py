"""Draws the validation split of a dataset that has none, by a hash of each image's id."""

from dataclasses import replace

from clipcap.data.records import Source, hash_fraction


def draw_splits(source: Source, val_fraction: float, seed: int) -> tuple[Source, bool]:
    """Assign a split to every record; draw `val` from the training images if the dataset has none.

    An image is drawn if the hash of its id is below `val_fraction`, so its split does not depend on the other images.
    There is one exception: of two or more existing images, at least one is drawn and at least one is not.

    Args:
        source: its records may have splits; a record without one counts as a training image.
        val_fraction: the expected share of the training images that becomes `val`, in [0, 1). At 0, none is drawn.
        seed: of the hash.

    Returns:
        The source with all splits set, and whether a split was drawn (if not, the seed had no effect).
    """
    draws = val_fraction > 0 and all(record.split != "val" for record in source.records)
    drawn = _draw(source, val_fraction, seed) if draws else set()
    records = [
        replace(record, split="val" if number in drawn else record.split or "train")
        for number, record in enumerate(source.records)
    ]
    return replace(source, records=records), draws


def _draw(source: Source, val_fraction: float, seed: int) -> set[int]:
    """Return the numbers of the records that become `val`."""
    hashes = {
        number: hash_fraction(record.id, seed) for number, record in enumerate(source.records) if record.split != "test"
    }
    missing = set(source.missing)
    existing = sorted((i for i in hashes if source.records[i].path not in missing), key=hashes.__getitem__)
    drawn = {number for number, value in hashes.items() if value < val_fraction}
    return (drawn | set(existing[:1])) - set(existing[-1:])
