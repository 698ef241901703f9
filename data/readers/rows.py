"""Builds records from embeddings that another program computed, and gives them captions from another dataset.

A row is the embedding of one image. No image is opened and no encoder is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from clipcap.data.errors import SourceError
from clipcap.data.records import Record, Records, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME_IMAGE = 0.99  # least cosine similarity of two rows of one image
_NO_CAPTIONS = "no captions: this cache can be captioned, not trained on; give a dataset with `captions`"


class Entry(NamedTuple):
    """One caption of an embedded image.

    Attributes:
        name: of the image; becomes its id and path.
        caption: empty if the image has none.
        row: number of the image's row.
        split: one of `SPLITS`, or None.
    """

    name: str
    caption: str
    row: int
    split: str | None = None


def as_rows(path: Path, values: Any) -> "NDArray[Any]":
    """Return embeddings as an array of float rows, (n, d).

    Args:
        path: the file that they come from, named in errors.
        values: a numpy array, a torch tensor, or anything that `numpy.asarray` accepts.

    Raises:
        SourceError: they are not a non-empty matrix of floats.
    """
    import numpy as np

    rows = np.asarray(values.detach().numpy() if hasattr(values, "detach") else values)
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise SourceError(f"{path} holds {rows.dtype} of shape {rows.shape}; save float rows of shape (n, d)")
    return rows


def group_rows(
    path: Path,
    format: str,
    rows: "NDArray[Any]",
    entries: Sequence[Entry],
    notes: Iterable[str] = (),
    *,
    has_names: bool = True,
) -> Source:
    """Build one record per image with all its captions; of several rows of one image, the first is kept.

    Args:
        path: the file or folder that everything comes from; the root of the source.
        format: the reader's name.
        rows: float (n, d).
        entries: one per caption.
        notes: of the source; what is found here is added.
        has_names: whether the names of the entries come from the dataset.

    Raises:
        SourceError: an entry names a row that does not exist, two rows of one image differ, or images share a row.
    """
    import numpy as np

    first: dict[str, Entry] = {}
    captions: dict[str, list[str]] = {}
    for entry in entries:
        if not 0 <= entry.row < len(rows):
            raise SourceError(
                f"{path} has a caption of row {entry.row:,}, but only {len(rows):,} rows; the captions belong to "
                "another file"
            )
        kept = first.setdefault(entry.name, entry).row
        if entry.row != kept and not _similar(rows[entry.row], rows[kept]):
            raise SourceError(
                f"{path}: rows {kept:,} and {entry.row:,} both belong to {entry.name}, but they differ; the captions "
                "are shifted against the rows; make the file again"
            )
        captions.setdefault(entry.name, []).extend([entry.caption] if entry.caption.strip() else [])
    if not first:
        raise SourceError(f"{path} holds no rows")
    if len(first) > len(rows):
        raise SourceError(
            f"{path} names {len(first):,} images, but has {len(rows):,} rows; the captions belong to another file"
        )
    embedding = rows[np.array([entry.row for entry in first.values()], dtype=np.int64)]
    with np.errstate(over="ignore"):  # a row that is infinite in float32 is not imported
        lengths = np.linalg.norm(embedding.astype(np.float32), axis=-1)
    normalized = bool((np.abs(lengths - 1) < 0.01).all())
    notes = list(notes)
    if normalized:
        notes.append("all rows have length 1, so the embeddings of new images will be normalized as well")
    if len(entries) > len(first):
        notes.append(f"{len(entries):,} captions of {len(first):,} images: one row is kept per image")
    if not any(captions.values()):
        notes.append(_NO_CAPTIONS)
    return Source(
        format=format,
        root=path,
        records=Records.of(Record(name, name, first[name].split, tuple(texts)) for name, texts in captions.items()),
        notes=notes,
        embedding=embedding,
        normalized=normalized,
        has_names=has_names,
    )


def add_captions(source: Source, captions: Source, path: Path) -> Source:
    """Return the embeddings of one source with the captions and splits of another.

    Args:
        source: the embeddings. Rows with names take the captions of the image of the same name; rows without names take
            the captions of the records in order.
        captions: the dataset that has the captions.
        path: of that dataset, named in errors.

    Raises:
        SourceError: the rows have no names and their number is not that of the records, or no name is in both.
    """
    if not len(captions.records):
        raise SourceError(f"{path} lists no images with captions; give the dataset that {source.root} was made from")
    if source.has_names:
        found = _match_names(source, captions)
        if all(number is None for number in found):
            raise SourceError(
                f"{path} has no captions for the rows of {source.root}: these have names such as "
                f"{source.records[0].path}, and the captions have names such as {captions.records[0].path}"
            )
        records = Records.of(
            record if number is None else replace(captions.records[number], id=record.id, path=record.path)
            for record, number in zip(source.records, found, strict=True)
        )
    else:
        if len(captions.records) != len(source.records):
            raise SourceError(
                f"{path} has captions of {len(captions.records):,} images, but {source.root} has "
                f"{len(source.records):,} rows without names; give captions of as many images, in the same order"
            )
        records = Records.of(captions.records)
    without = sum(not record.captions for record in records)
    notes = [note for note in source.notes if note != _NO_CAPTIONS]
    if without:
        notes.append(f"{without:,} of {len(records):,} rows have no captions in {path}")
    return replace(source, records=records, notes=notes, has_names=True)


def _match_names(source: Source, captions: Source) -> list[int | None]:
    """Find the record of captions for each row: by its whole path, or else by a file name that only one record has."""
    paths = Records.of(captions.records).paths
    by_path = {path: number for number, path in enumerate(paths())}
    by_name: dict[str, int | None] = {}
    for number, path in enumerate(paths()):
        name = PurePosixPath(path).name
        by_name[name] = None if name in by_name else number
    return [by_path.get(path, by_name.get(PurePosixPath(path).name)) for path in Records.of(source.records).paths()]


def _similar(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    import numpy as np

    one, other = one.astype(np.float32), other.astype(np.float32)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(np.array_equal(one, other)) or float(one @ other) > _SAME_IMAGE * length
