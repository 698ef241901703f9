"""The two types that a dataset reader fills: a record is one picture with its captions, a source is all of them."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a dataset.

    Attributes:
        id: the dataset's own id of the picture, unique in the source.
        path: the picture's file, relative to the source's root, with forward slashes.
        split: one of `SPLITS`, or None where the dataset does not say.
        captions: as the dataset has them; may be empty.
    """

    id: str
    path: str
    split: str | None
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as a reader understood it.

    Attributes:
        format: the reader's name.
        root: the folder that `Record.path` is relative to.
        records: in the order in which they will be cached.
        missing: paths of records whose file does not exist.
        unlisted: pictures in the dataset's folders that no record names; they are left alone.
        notes: what the reader decided that a person may want to know, a sentence each.
        embedding: float (len(records), d), where the source is of embeddings and not of pictures.
        normalized: whether those rows have length 1.
    """

    format: str
    root: Path
    records: list[Record]
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    embedding: "NDArray[Any] | None" = None
    normalized: bool = False

    def limited(self, limit: int) -> "Source":
        """At most `limit` pictures that exist, evenly spaced over the dataset, so that every split keeps its share."""
        missing = set(self.missing)
        found = [number for number, record in enumerate(self.records) if record.path not in missing]
        count = min(limit, len(found))
        chosen = [found[i * len(found) // count] for i in range(count)]
        left_out = [f"{len(missing):,} listed pictures do not exist and were left out"] if missing else []
        return replace(
            self,
            records=[self.records[number] for number in chosen],
            missing=[],
            notes=[*self.notes, *left_out],
            embedding=None if self.embedding is None else self.embedding[chosen],
        )

    def counts(self) -> dict[str, int]:
        """Pictures in each split that has any, in the order of `SPLITS`."""
        counter = Counter(record.split for record in self.records)
        return {split: counter[split] for split in SPLITS if counter[split]}

    def captions(self) -> int:
        """All captions of all records."""
        return sum(len(record.captions) for record in self.records)

    def sha256(self) -> str:
        """A sum over ids, paths, splits, captions and embeddings, in order.

        Two sources with the same sum make the same cache.
        """
        digest = hashlib.sha256()
        for record in self.records:
            line = json.dumps([record.id, record.path, record.split, record.captions])
            digest.update(line.encode() + b"\n")
        if self.embedding is not None:
            digest.update(self.embedding.tobytes())
        return digest.hexdigest()


def storable(text: str) -> str:
    """The text as UTF-8 can hold it in HDF5: lone surrogates become `?`, zero characters go."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
