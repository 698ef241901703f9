"""Embeddings in numpy's files: those of clip-retrieval, with tables beside them, and anybody's. One class a layout."""

import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.rows import as_rows, group_rows
from clipcap.data.records import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = ("embedding", "embeddings", "clip_embedding", "image_embeds", "features")
_NAMES = ("image", "images", "path", "paths", "name", "names", "file_name", "filename", "image_id")


class ClipRetrievalReader(Reader):
    """A folder that clip-retrieval wrote: `img_emb/img_emb_0.npy`, and `metadata/metadata_0.parquet` beside it."""

    expected_layout = "img_emb/img_emb_0.npy, with metadata/metadata_0.parquet"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and bool(_numbered(path / "img_emb", "img_emb_*.npy"))

    def read(self, path: Path, columns: Columns) -> Source:
        import numpy as np

        files = _numbered(path / "img_emb", "img_emb_*.npy")
        if not files:
            raise SourceError(f"{path} has no {self.expected_layout}")
        parts: list[NDArray[Any]] = []
        entries: list[tuple[str, str, int]] = []
        for file in files:
            rows = as_rows(file, _load(file))
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
        return group_rows(path, "clip-retrieval", np.concatenate(parts), unique, [None] * len(unique), [])


class ArraysReader(Reader):
    """`.npz` with rows and names, or `.npy` with rows alone; captions come with `--captions`."""

    expected_layout = "a .npy of rows, or a .npz of rows and names"

    def matches(self, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def read(self, path: Path, columns: Columns) -> Source:
        import numpy as np

        content = _load(path)
        if isinstance(content, np.ndarray):
            rows = as_rows(path, content)
            names = [f"{path.stem}[{i}]" for i in range(len(rows))]
        else:
            arrays = content
            key = next((name for name in _ROWS if name in arrays), None)
            if key is None:
                raise SourceError(f"{path} has no array called {', '.join(_ROWS)} but {', '.join(arrays) or 'nothing'}")
            rows = as_rows(path, arrays[key])
            label = next((name for name in _NAMES if name in arrays and arrays[name].shape == (len(rows),)), None)
            names = [str(name) for name in arrays[label]] if label else [f"{path.stem}[{i}]" for i in range(len(rows))]
        if len(set(names)) < len(names):
            raise SourceError(f"{path} names a picture twice (as {Counter(names).most_common(1)[0][0]}); mend it")
        entries = [(name, "", i) for i, name in enumerate(names)]
        return group_rows(path, "arrays", rows, entries, [None] * len(entries), [])


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
