"""Embeddings that somebody made before, as records: rows, and captions in them or beside them.

Rows become records as pictures do, each of one picture; no picture is opened, and no encoder is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import SourceError
from clipcap.data.records import Record, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME = 0.99  # cosine of two rows that are of one picture


def as_rows(path: Path, values: Any) -> "NDArray[Any]":
    """Numbers as rows, (n, d).

    Args:
        path: where they are from, for errors.
        values: a numpy array or a torch tensor, or what numpy makes one of.

    Raises:
        SourceError: they are none.
    """
    import numpy as np

    rows = np.asarray(values.detach().numpy() if hasattr(values, "detach") else values)
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise SourceError(f"{path} holds {rows.dtype} of the shape {rows.shape}, not rows of numbers (n, d); mend it")
    return rows


def group_rows(
    path: Path,
    format_name: str,
    rows: "NDArray[Any]",
    entries: Sequence[tuple[str, str, int]],
    splits: Sequence[str | None],
    notes: Iterable[str],
) -> Source:
    """One record a picture, with its first row.

    Args:
        path: where all is from.
        format_name: of the source.
        rows: float (n, d).
        entries: picture, caption (or an empty one) and number of the row, for each caption.
        splits: of each entry.
        notes: of the source, to which what is found is added.

    Raises:
        SourceError: a row is not there, or two rows of one picture are of different pictures.
    """
    import numpy as np

    captions: dict[str, list[str]] = {}
    first: dict[str, int] = {}
    split_of: dict[str, str | None] = {}
    for (name, caption, row), split in zip(entries, splits, strict=True):
        if not 0 <= row < len(rows):
            raise SourceError(
                f"{path} has a caption of row {row:,}, and {len(rows):,} rows: they belong to other files"
            )
        if name not in first:
            first[name], split_of[name] = row, split
        elif row != first[name] and not _alike(rows[row], rows[first[name]]):
            raise SourceError(
                f"{path}: rows {first[name]:,} and {row:,} are both said to be of {name}, and differ: rows and "
                "captions are shifted against each other; make the file again"
            )
        captions.setdefault(name, []).extend([caption] if caption.strip() else [])
    if not first:
        raise SourceError(f"{path} holds no rows")
    embedding = rows[np.fromiter(first.values(), dtype=np.int64, count=len(first))]
    lengths = np.linalg.norm(embedding.astype(np.float32), axis=-1)
    normalized = bool((np.abs(lengths - 1) < 0.01).all())
    notes = list(notes)
    if normalized:
        notes.append("the rows have length 1: somebody normalised them, and so will be the embeddings of new pictures")
    if len(entries) > len(first):
        notes.append(f"{len(entries):,} captions of {len(first):,} pictures: one row is kept for each")
    if not any(captions.values()):
        notes.append("no captions: this cache can be captioned, not trained on; give some with --captions")
    records = [Record(name, name, split_of[name], tuple(texts)) for name, texts in captions.items()]
    return Source(
        format=format_name, root=path, records=records, notes=notes, embedding=embedding, normalized=normalized
    )


def _alike(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    import numpy as np

    one, other = one.astype(np.float32), other.astype(np.float32)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(np.array_equal(one, other)) or float(one @ other) > _SAME * length


def add_captions(source: Source, captions: Source, path: Path) -> Source:
    """The same rows, with the captions and splits that a dataset has for them.

    Args:
        source: rows.
        captions: records in the order of the rows where these have no names, else found by name.
        path: of the captions, for errors.

    Raises:
        SourceError: the numbers do not fit, or no name is in both.
    """
    if source.records[0].path.endswith("]"):  # rows without names
        if len(captions.records) != len(source.records):
            raise SourceError(
                f"{path} has captions of {len(captions.records):,} pictures, {source.root} has {len(source.records):,} "
                "rows without names; give as many, in the same order"
            )
        records = list(captions.records)
    else:
        by_path = {record.path: record for record in captions.records}
        by_name: dict[str, list[Record]] = {}
        for record in captions.records:
            by_name.setdefault(PurePosixPath(record.path).name, []).append(record)

        def find(record: Record) -> Record | None:
            alike = by_name.get(PurePosixPath(record.path).name, [])
            return by_path.get(record.path) or (alike[0] if len(alike) == 1 else None)

        found = [find(record) for record in source.records]
        if not any(found):
            raise SourceError(
                f"{path} has no captions for the rows of {source.root}: they are of {source.records[0].path}, ..., it "
                f"tells of {captions.records[0].path}, ..."
            )
        records = [
            replace(record, captions=other.captions, split=other.split) if other else record
            for record, other in zip(source.records, found, strict=True)
        ]
    without = sum(not record.captions for record in records)
    notes = [note for note in source.notes if not note.startswith("no captions")]
    if without:
        notes.append(f"{without:,} of {len(records):,} rows have no captions in {path}")
    return replace(source, records=records, notes=notes)
