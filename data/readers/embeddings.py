"""Embeddings that somebody made before: files and folders of rows, with captions in them or beside them.

One class a layout; what they share is here too. Rows become records as pictures do, each of one picture; no picture is
opened, and no encoder is loaded.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader, Reader
from clipcap.data.records import Record, Source
from clipcap.data.unpickle import read_pickle

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME = 0.99  # cosine of two rows that are of one picture
_ROWS = ("embedding", "embeddings", "clip_embedding", "image_embeds", "features")
_NAMES = ("image", "images", "path", "paths", "name", "names", "file_name", "filename", "image_id")


class ClipCapPickleReader(FileReader):
    """What rmokady's parse_coco.py and parse_conceptual.py write: `clip_embedding`, and a dict a caption.

    The `_tokens.pkl` that training leaves beside it is not looked at.
    """

    wants = "a .pkl of rmokady's with clip_embedding and captions"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" in _head(file)

    def read_file(self, path: Path, root: Path, columns: Columns) -> Source:
        content = read_pickle(path)
        try:
            rows = _as_rows(path, content["clip_embedding"])
            entries = [(str(entry["image_id"]), entry["caption"], int(entry["clip_embedding"]))
                       for entry in content["captions"]]  # fmt: skip
            if not all(isinstance(caption, str) for _, caption, _ in entries):
                raise TypeError("a caption that is no text")
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{path} is not {self.wants} ({type(error).__name__}: {one_line(error)})") from error
        notes: list[str] = []
        shift = _shift(path, [row for _, _, row in entries], len(rows))
        splits: list[str | None] = [None] * len(entries)
        if shift:
            # parse_conceptual.py numbers the second part from 0 again, in lists that go on.
            entries = [
                (f"{'val' if i < shift else 'train'}/{name}", caption, row if i < shift else row + shift)
                for i, (name, caption, row) in enumerate(entries)
            ]
            splits = ["val" if i < shift else "train" for i in range(len(entries))]
            notes.append(
                f"from caption {shift:,} on the rows were numbered from 0 again: repaired; the {shift:,} before are val"
            )
        return _fold(path, "clipcap-pickle", rows, entries, splits, notes)


class ClipXGptPickleReader(FileReader):
    """What jmisilo's dataset_generation.py writes: a list of (picture, row, caption)."""

    wants = "a .pkl of jmisilo's with (picture, row, caption)"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" not in _head(file) and not file.stem.endswith("_tokens")

    def read_file(self, path: Path, root: Path, columns: Columns) -> Source:
        import numpy as np

        content = read_pickle(path)
        try:
            entries = [(str(name), caption, i) for i, (name, _, caption) in enumerate(content)]
            rows = _as_rows(path, np.stack([np.asarray(row).reshape(-1) for _, row, _ in content]))
            if not all(isinstance(caption, str) for _, caption, _ in entries):
                raise TypeError("a caption that is no text")
        except (KeyError, TypeError, ValueError) as error:
            fact = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise SourceError(f"{path} is no pickle of embeddings that is known here ({fact}); see --help") from error
        return _fold(path, "clipxgpt-pickle", rows, entries, [None] * len(entries), [])


class ClipRetrievalReader(Reader):
    """A folder that clip-retrieval wrote: `img_emb/img_emb_0.npy`, and `metadata/metadata_0.parquet` beside it."""

    wants = "img_emb/img_emb_0.npy, with metadata/metadata_0.parquet"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and bool(_numbered(path / "img_emb", "img_emb_*.npy"))

    def read(self, path: Path, columns: Columns) -> Source:
        import numpy as np

        files = _numbered(path / "img_emb", "img_emb_*.npy")
        if not files:
            raise SourceError(f"{path} has no {self.wants}")
        parts: list[NDArray[Any]] = []
        entries: list[tuple[str, str, int]] = []
        for file in files:
            rows = _as_rows(file, _load(file))
            table = _parquet(path / "metadata" / f"metadata_{file.stem.rpartition('_')[2]}.parquet", len(rows))
            start = sum(len(part) for part in parts)
            texts, names = (table.get(column, [None] * len(rows)) for column in ("caption", "image_path"))
            for i, (caption, name) in enumerate(zip(texts, names, strict=True)):
                entries.append((str(name) if name else f"{file.stem}[{i}]", str(caption or ""), start + i))
            parts.append(rows)
        # Files of one name in several folders are several pictures.
        seen: dict[str, int] = {}
        unique = []
        for name, caption, row in entries:
            count = seen[name] = seen.get(name, 0) + 1
            unique.append((name if count == 1 else f"{name}#{count}", caption, row))
        return _fold(path, "clip-retrieval", np.concatenate(parts), unique, [None] * len(unique), [])


class ArraysReader(Reader):
    """`.npz` with rows and names, or `.npy` with rows alone; captions come with `--captions`."""

    wants = "a .npy of rows, or a .npz of rows and names"

    def matches(self, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def read(self, path: Path, columns: Columns) -> Source:
        import numpy as np

        content = _load(path)
        if isinstance(content, np.ndarray):
            rows = _as_rows(path, content)
            names = [f"{path.stem}[{i}]" for i in range(len(rows))]
        else:
            arrays = content
            key = next((name for name in _ROWS if name in arrays), None)
            if key is None:
                raise SourceError(f"{path} has no array called {', '.join(_ROWS)} but {', '.join(arrays) or 'nothing'}")
            rows = _as_rows(path, arrays[key])
            label = next((name for name in _NAMES if name in arrays and arrays[name].shape == (len(rows),)), None)
            names = [str(name) for name in arrays[label]] if label else [f"{path.stem}[{i}]" for i in range(len(rows))]
        if len(set(names)) < len(names):
            raise SourceError(f"{path} names a picture twice (as {Counter(names).most_common(1)[0][0]}); mend it")
        entries = [(name, "", i) for i, name in enumerate(names)]
        return _fold(path, "arrays", rows, entries, [None] * len(entries), [])


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


def _fold(
    path: Path,
    format_name: str,
    rows: "NDArray[Any]",
    entries: Sequence[tuple[str, str, int]],
    splits: Sequence[str | None],
    notes: Iterable[str],
) -> Source:
    """One record a picture, with its first row, from (picture, caption, row) a caption.

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


def _shift(path: Path, rows: list[int], count: int) -> int:
    """Where rows that count up from 0 begin at 0 again, though there are more of them; 0 where they do not.

    Raises:
        SourceError: they do, but what follows is not all the rest, so that nobody can tell which row is whose.
    """
    start = next((i for i, row in enumerate(rows) if i and row == 0 != rows[i - 1]), 0)
    if not start or rows[:start] != list(range(start)) or count <= start:
        return 0
    if len(rows) == count and rows[start:] == list(range(count - start)):
        return start
    raise SourceError(
        f"{path}: from caption {start:,} on the rows are numbered from 0 again, and {count:,} rows and {len(rows):,} "
        "captions do not say how they go together; make the file again"
    )


def _alike(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    import numpy as np

    one, other = one.astype(np.float32), other.astype(np.float32)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(np.array_equal(one, other)) or float(one @ other) > _SAME * length


def _as_rows(path: Path, values: Any) -> "NDArray[Any]":
    """Numbers as rows, (n, d).

    Raises:
        SourceError: they are none.
    """
    import numpy as np

    rows = np.asarray(values.detach().numpy() if hasattr(values, "detach") else values)
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        raise SourceError(f"{path} holds {rows.dtype} of the shape {rows.shape}, not rows of numbers (n, d); mend it")
    return rows


def _load(path: Path) -> Any:
    import numpy as np

    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} holds no arrays ({one_line(error)[:120]}); save them with numpy") from error


def _parquet(path: Path, rows: int) -> dict[str, list[Any]]:
    """The columns of a table that stands beside a file of rows; none where there is no table."""
    if not path.is_file():
        return {}
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"{path} is a parquet table; install what reads it: pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except Exception as error:  # pyarrow's own errors
        raise SourceError(f"{path} cannot be read ({one_line(error)[:120]})") from error
    if table.num_rows != rows:
        raise SourceError(f"{path} has {table.num_rows:,} rows, its embeddings {rows:,}: they belong to other files")
    return columns


def _numbered(folder: Path, pattern: str) -> list[Path]:
    def number(path: Path) -> int:
        return int(re.findall(r"\d+", path.stem)[-1])

    return sorted((path for path in folder.glob(pattern) if re.search(r"\d+$", path.stem)), key=number)


def _is_pickle(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pkl", ".pickle")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError:
        return b""
