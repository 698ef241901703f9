"""The records of a dataset, packed: an image with five captions takes 400 bytes, and 800 as a `Record`.

    row          0         1                 a record of the dataset
    ids          7         3                 Texts
    paths        b.jpg     a.jpg             Texts
    splits       train     val               a byte each
    captions     one  two  three  four       Texts, in any order
    order        1    3  | 0      2          numbers of captions, row by row
    first        0         2          4      where each row begins in `order`

A part of a dataset, or the same one with other splits, shares all of this and has a list of rows of its own.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from clipcap.data.texts import Texts

SPLITS = ("train", "val", "test")
_SPLITS = (*SPLITS, None)
_CODES = {split: code for code, split in enumerate(_SPLITS)}


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a dataset with its captions.

    Attributes:
        id: the dataset's own id of the image, unique in the source.
        path: the image file, relative to the source's root, with forward slashes; inside a tar or a table, the name of
            that file comes first: `00000.tar/000000000.jpg`, `train.parquet/17`.
        split: one of `SPLITS`, or None if the dataset does not assign one.
        captions: the captions as the dataset has them; may be empty.
    """

    id: str
    path: str
    split: str | None
    captions: tuple[str, ...]


class _Rows(NamedTuple):
    """The columns of all rows, as the head of this file draws them."""

    ids: Texts
    paths: Texts
    captions: Texts
    order: Sequence[int]
    first: Sequence[int]


class Records(Sequence[Record]):
    """An immutable sequence of records. It equals any sequence of the same records.

    It is made by `RecordsBuilder`, or by `Records.of`.
    """

    __slots__ = ("_chosen", "_rows", "_splits")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, rows: _Rows, splits: bytes, chosen: Sequence[int]) -> None:
        self._rows = rows
        self._splits = splits  # of the chosen rows
        self._chosen = chosen

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Records":
        """Return records packed, which they may be already."""
        if isinstance(records, Records):
            return records
        builder = RecordsBuilder()
        for record in records:
            builder.append(record)
        return builder.build()

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: "int | slice") -> "Record | Records":
        chosen = range(len(self))[index]
        return self._record(chosen) if isinstance(chosen, int) else self.take(chosen)

    def __iter__(self) -> Iterator[Record]:
        return map(Record, self.ids(), self.paths(), self.splits(), map(self._captions, self._chosen))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"{list(self[:3])!r:.300} ... ({len(self):,} records)"

    def ids(self) -> Iterator[str]:
        """Yield the id of each record."""
        return self._rows.ids.pick(self._chosen)

    def paths(self) -> Iterator[str]:
        """Yield the path of each record."""
        return self._rows.paths.pick(self._chosen)

    def splits(self) -> Iterator[str | None]:
        """Yield the split of each record."""
        return map(_SPLITS.__getitem__, self._splits)

    def captions(self) -> int:
        """Return the number of captions of all records."""
        first = self._rows.first
        return sum(first[row + 1] - first[row] for row in self._chosen)

    def take(self, numbers: Iterable[int]) -> "Records":
        """Return the records with these numbers, in their order."""
        numbers = array("Q", numbers)
        splits = bytes(map(self._splits.__getitem__, numbers))
        return Records(self._rows, splits, array("Q", map(self._chosen.__getitem__, numbers)))

    def with_splits(self, splits: Iterable[str | None]) -> "Records":
        """Return the records with other splits, one for each."""
        codes = bytes(map(_CODES.__getitem__, splits))
        assert len(codes) == len(self)
        return Records(self._rows, codes, self._chosen)

    def _record(self, number: int) -> Record:
        row = self._chosen[number]
        return Record(self._rows.ids[row], self._rows.paths[row], _SPLITS[self._splits[number]], self._captions(row))

    def _captions(self, row: int) -> tuple[str, ...]:
        _, _, captions, order, first = self._rows
        return tuple(captions.pick(order[first[row] : first[row + 1]]))


class RecordsBuilder:
    """Packs records whose captions arrive in any order, and before it is known which names belong to one image.

    Captions are added to groups, which are numbered from 0. `add` and `join` say for one group after the other to which
    record it belongs.

        group        0    1    2    3        of each name in a file of captions
        record       0    1    0    2        names 0 and 2 are one image

    A record's captions are those of its groups, one group after the other.
    """

    def __init__(self) -> None:
        self._ids = Texts()
        self._paths = Texts()
        self._splits = bytearray()
        self._captions = Texts()
        self._group_of_caption = array("I")
        self._record_of_group = array("I")

    def append(self, record: Record) -> None:
        """Add a record with its captions, as a group of its own."""
        group = len(self._record_of_group)
        self.add(record.id, record.path, record.split)
        for caption in record.captions:
            self.add_caption(group, caption)

    def add(self, id: str, path: str, split: str | None) -> int:
        """Let the next group begin a record, and return the number of the record."""
        number = len(self._splits)
        self._ids.append(id)
        self._paths.append(path)
        self._splits.append(_CODES[split])
        self._record_of_group.append(number)
        return number

    def join(self, record: int) -> None:
        """Let the next group belong to a record that was added before."""
        self._record_of_group.append(record)

    def add_caption(self, group: int, caption: str) -> None:
        """Add a caption to a group, which may not have a record yet."""
        self._captions.append(caption)
        self._group_of_caption.append(group)

    def group_count(self) -> int:
        """Return the number of groups that have a record."""
        return len(self._record_of_group)

    def caption_count(self) -> int:
        """Return the number of captions that were added."""
        return len(self._captions)

    def remove_captions(self, count: int) -> None:
        """Remove all captions but the first `count` that were added."""
        self._captions.truncate(count)
        del self._group_of_caption[count:]

    def __len__(self) -> int:
        return len(self._splits)

    def split(self, record: int) -> str | None:
        """Return the split of a record that was added."""
        return _SPLITS[self._splits[record]]

    def set_split(self, record: int, split: str | None) -> None:
        """Change the split of a record that was added."""
        self._splits[record] = _CODES[split]

    def build(self) -> Records:
        """Return the records. All groups that have captions must have a record by now; the builder is used up."""
        import numpy as np

        record_of_group = np.asarray(self._record_of_group)
        group = np.asarray(self._group_of_caption)
        by_record = np.argsort(record_of_group, kind="stable")
        rank = np.empty(len(by_record), dtype=np.uint32)  # of a group, if they are sorted by their records
        rank[by_record] = np.arange(len(by_record), dtype=np.uint32)
        key = rank[group]
        in_order = bool((key[1:] >= key[:-1]).all())
        order = range(len(key)) if in_order else array("I", np.argsort(key, kind="stable").astype(np.uint32).tobytes())
        counts = np.bincount(record_of_group[group], minlength=len(self))
        first = array("Q", np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64).tobytes())
        rows = _Rows(self._ids, self._paths, self._captions, order, first)
        return Records(rows, bytes(self._splits), range(len(self)))
