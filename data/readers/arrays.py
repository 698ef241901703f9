"""Embeddings in numpy files: those that clip-retrieval writes, with tables beside them, and plain arrays."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import SourceError, unreadable
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.npy import open_arrays
from clipcap.data.readers.rows import Entry, as_rows, group_rows
from clipcap.data.records import Source
from clipcap.data.stores.parquet import open_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROW_ARRAYS = ("embedding", "embeddings", "clip_embedding", "image_embeds", "features")
_NAME_ARRAYS = ("image", "images", "path", "paths", "name", "names", "file_name", "filename", "image_id")


class ClipRetrievalReader(Reader):
    """Reads a folder that clip-retrieval wrote: `img_emb/img_emb_0.npy`, ... and `metadata/metadata_0.parquet`, ..."""

    expected_layout = "img_emb/img_emb_0.npy, with metadata/metadata_0.parquet"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and bool(_numbered(path / "img_emb", "img_emb_*.npy"))

    def read(self, path: Path, columns: Columns) -> Source:
        import numpy as np

        files = _numbered(path / "img_emb", "img_emb_*.npy")
        if not files:
            raise SourceError(f"{path} has no {self.expected_layout}")
        parts: list[NDArray[Any]] = []
        entries: list[Entry] = []
        used: Counter[str] = Counter()
        has_names = False
        for file in files:
            rows = as_rows(file, read_arrays(file)[0])
            if parts and rows.shape[1] != parts[0].shape[1]:
                raise SourceError(
                    f"{file} has rows of {rows.shape[1]:,} numbers, but {files[0]} has rows of {parts[0].shape[1]:,}; "
                    "use the files of one run"
                )
            table = _parquet(path / "metadata" / f"metadata_{file.stem.rpartition('_')[2]}.parquet", len(rows))
            captions, names = (table.get(column, [None] * len(rows)) for column in ("caption", "image_path"))
            for i, (caption, image) in enumerate(zip(captions, names, strict=True)):
                has_names = has_names or bool(image)
                name = str(image) if image else f"{file.stem}[{i}]"
                used[name] += 1
                # Images with the same name, in different folders, stay separate images.
                unique = name if used[name] == 1 else f"{name}#{used[name]}"
                entries.append(Entry(unique, str(caption or ""), len(entries)))
            parts.append(rows)
        return group_rows(path, "clip-retrieval", np.concatenate(parts), entries, has_names=has_names)


class ArraysReader(Reader):
    """Reads a `.npz` with rows and names, or a `.npy` with rows alone; captions come from another dataset."""

    expected_layout = "a .npy with rows, or a .npz with rows and names"

    def matches(self, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def read(self, path: Path, columns: Columns) -> Source:
        rows, names = read_arrays(path)
        rows = as_rows(path, rows)
        entries = [Entry(names[i] if names else f"{path.stem}[{i}]", "", i) for i in range(len(rows))]
        return group_rows(path, "arrays", rows, entries, has_names=names is not None)


def read_arrays(path: Path) -> "tuple[NDArray[Any], list[str] | None]":
    """Read the array of a `.npy`, or the rows of a `.npz` with their names, found by the names of the arrays.

    Returns:
        The rows, of any shape and dtype, and the name of each; None if the file has no names.

    Raises:
        SourceError: the file holds no arrays, has no rows under a known name, or names an image more than once.
    """
    with open_arrays(path) as arrays:
        if arrays.names == [""]:
            return arrays[""], None
        key = next((key for key in _ROW_ARRAYS if key in arrays.names), None)
        if key is None:
            expected, found = ", ".join(_ROW_ARRAYS), ", ".join(arrays.names)[:300] or "nothing"
            raise SourceError(f"{path} has none of the arrays {expected}; it has {found}")
        rows = arrays[key]
        count = rows.shape[:1] if rows.ndim > 1 else None  # a single row has no names
        known = [key for key in _NAME_ARRAYS if key in arrays.names]
        label = next((key for key in known if arrays.header(key).shape == count), None)
        if label is None:
            return rows, None
        names = [str(name) for name in arrays[label]]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise SourceError(f"{path} names the image {twice} more than once; keep one row per image")
    return rows, names


def _parquet(path: Path, rows: int) -> dict[str, list[Any]]:
    """Return the columns of the table that belongs to a file of rows; empty if there is no table."""
    if not path.exists():
        return {}
    opened = open_parquet(path)
    try:
        table = opened.read(use_threads=False)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except Exception as error:  # pyarrow raises errors of many classes
        raise unreadable(path, error, "write it again") from error
    if table.num_rows != rows:
        raise SourceError(
            f"{path} has {table.num_rows:,} rows, but its embeddings have {rows:,}; use the files of one run"
        )
    return columns


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the files whose name ends with a number, in the order of that number."""

    def number(path: Path) -> int:
        return int(re.findall(r"\d+", path.stem)[-1])

    return sorted((path for path in folder.glob(pattern) if re.search(r"\d+$", path.stem)), key=number)
