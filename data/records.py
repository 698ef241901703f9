"""What a dataset reader returns: a `Source`, which is a dataset, made of `Record`, an image with its captions."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.confined import ConfinedStore, names_outside
from clipcap.data.image_store import ImageStore
from clipcap.data.packed_records import SPLITS, Record, Records, RecordsBuilder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SPLITS", "Record", "Records", "RecordsBuilder", "Source", "hash_fraction", "storable"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as its reader understood it.

    A source consists of images, or of embeddings that another program computed. With embeddings, a record's path is
    only the name of the image; no file is opened.

    Attributes:
        format: the reader's name in `READERS`.
        root: the folder that `Record.path` is relative to; text if it is a URL.
        records: all images, in the order in which they will be cached. Readers return them packed.
        missing: paths of the records whose file does not exist.
        unlisted: images in the dataset's folders that no record names; they are ignored.
        notes: what the reader decided and the user may want to know, one sentence each.
        embedding: float (len(records), d) where the source consists of embeddings, else None.
        normalized: whether all rows of `embedding` have length 1.
        has_names: whether the ids come from the dataset. False for rows of embeddings without names, whose ids are
            made from their position; captions can be assigned to them by order only.
        store: has the image files; None if they are below `root`, and none outside it is read.
    """

    format: str
    root: Path | str
    records: Sequence[Record]
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    embedding: "NDArray[Any] | None" = None
    normalized: bool = False
    has_names: bool = True
    store: ImageStore | None = None

    @property
    def images(self) -> ImageStore:
        """The store of the image files."""
        return self.store or ConfinedStore(Path(self.root))

    @property
    def outside(self) -> list[str]:
        """The paths of `missing` that lead outside `root`, whether or not such a file exists."""
        return names_outside(Path(self.root), self.missing) if self.store is None else []

    def limited(self, limit: int, seed: int) -> "Source":
        """Return a source with at most `limit` of the images that exist, drawn by a hash of their ids.

        Every split keeps its share of the images, and at least one image where the limit allows it. The choice depends
        on the ids, the splits and the seed; the order of the records stays.
        """
        records, missing = Records.of(self.records), set(self.missing)
        by_split: dict[str | None, list[int]] = {split: [] for split in (*SPLITS, None)}
        for number, (path, split) in enumerate(zip(records.paths(), records.splits(), strict=True)):
            if path not in missing:
                by_split[split].append(number)
        hashes = array("d", (hash_fraction(f"limit:{id}", seed) for id in records.ids()))
        shares = _shares([len(numbers) for numbers in by_split.values()], limit)
        chosen: list[int] = []
        for numbers, share in zip(by_split.values(), shares, strict=True):
            numbers.sort(key=hashes.__getitem__)
            chosen += numbers[:share]
        chosen.sort()
        left_out = [f"{len(missing):,} listed images do not exist and were left out"] if missing else []
        return replace(
            self,
            records=records.take(chosen),
            missing=[],
            notes=[*self.notes, *left_out],
            embedding=None if self.embedding is None else self.embedding[chosen],
        )

    def counts(self) -> dict[str, int]:
        """Return the number of images in each split that has any, in the order of `SPLITS`."""
        counter = Counter(Records.of(self.records).splits())
        return {split: counter[split] for split in SPLITS if counter[split]}

    def captions(self) -> int:
        """Return the number of captions of all records."""
        return Records.of(self.records).captions()

    def sha256(self) -> str:
        """Return a hash over the ids, paths, splits, captions and embeddings in order.

        Two sources with the same hash make the same cache.
        """
        digest = hashlib.sha256()
        for record in self.records:
            line = json.dumps([record.id, record.path, record.split, record.captions])
            digest.update(line.encode() + b"\n")
        if self.embedding is not None:
            digest.update(self.embedding.tobytes())
        return digest.hexdigest()


def hash_fraction(text: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the text and the seed alone, uniform over texts."""
    digest = hashlib.sha256(f"{seed}:{text}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def storable(text: str) -> str:
    """Return the text as HDF5 can store it: lone surrogates become `?`, and NUL characters are dropped."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _shares(sizes: list[int], limit: int) -> list[int]:
    """Divide `limit` in proportion to the sizes (largest remainders), at least 1 to each size that is not 0.

    With sizes 90, 2, 3 and a limit of 10, the exact shares are 9.47, 0.21, 0.32; the result is 8, 1, 1.
    """
    total = sum(sizes)
    limit = min(limit, total)
    if not limit:
        return [0] * len(sizes)
    shares = [limit * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(limit * sizes[i] % total))
    for i in by_remainder[: limit - sum(shares)]:
        shares[i] += 1
    for i, size in enumerate(sizes):
        largest = max(range(len(sizes)), key=shares.__getitem__)
        if size and not shares[i] and shares[largest] > 1:
            shares[largest] -= 1
            shares[i] = 1
    return shares
