"""Draws the validation split of a dataset that has none, by a hash of each image's id."""

from dataclasses import replace

from clipcap.data.records import Records, Source, hash_fraction


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
    records = Records.of(source.records)
    draws = val_fraction > 0 and "val" not in records.splits()
    drawn = _draw(records, set(source.missing), val_fraction, seed) if draws else set()
    splits = ("val" if number in drawn else split or "train" for number, split in enumerate(records.splits()))
    return replace(source, records=records.with_splits(splits)), draws


def _draw(records: Records, missing: set[str], val_fraction: float, seed: int) -> set[int]:
    """Return the numbers of the records that become `val`."""
    drawn: set[int] = set()
    lowest: tuple[float, int] | None = None  # the hash and the number of an existing image
    highest: tuple[float, int] | None = None
    columns = zip(records.ids(), records.paths(), records.splits(), strict=True)
    for number, (id, path, split) in enumerate(columns):
        if split == "test":
            continue
        found = (hash_fraction(id, seed), number)
        if found[0] < val_fraction:
            drawn.add(number)
        if path not in missing:
            lowest, highest = min(lowest or found, found), max(highest or found, found)
    return (drawn | ({lowest[1]} if lowest else set())) - ({highest[1]} if highest else set())
