"""Pickles of embeddings and captions, as the programs before this one write them. One class a layout.

They are read without running what is in them: `read_pickle`.
"""

from pathlib import Path

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.rows import as_rows, group_rows
from clipcap.data.records import Source
from clipcap.data.safe_pickle import read_pickle


class ClipCapPickleReader(FileReader):
    """What rmokady's parse_coco.py and parse_conceptual.py write: `clip_embedding`, and a dict a caption.

    The `_tokens.pkl` that training leaves beside it is not looked at.
    """

    expected_layout = "a .pkl of rmokady's with clip_embedding and captions"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" in _head(file)

    def read_file(self, path: Path, root: Path, columns: Columns) -> Source:
        content = read_pickle(path)
        try:
            rows = as_rows(path, content["clip_embedding"])
            entries = [(str(entry["image_id"]), entry["caption"], int(entry["clip_embedding"]))
                       for entry in content["captions"]]  # fmt: skip
            if not all(isinstance(caption, str) for _, caption, _ in entries):
                raise TypeError("a caption that is no text")
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"{path} is not {self.expected_layout} ({type(error).__name__}: {one_line(error)})"
            ) from error
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
        return group_rows(path, "clipcap-pickle", rows, entries, splits, notes)


class ClipXGptPickleReader(FileReader):
    """What jmisilo's dataset_generation.py writes: a list of (picture, row, caption)."""

    expected_layout = "a .pkl of jmisilo's with (picture, row, caption)"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" not in _head(file) and not file.stem.endswith("_tokens")

    def read_file(self, path: Path, root: Path, columns: Columns) -> Source:
        import numpy as np

        content = read_pickle(path)
        try:
            entries = [(str(name), caption, i) for i, (name, _, caption) in enumerate(content)]
            rows = as_rows(path, np.stack([np.asarray(row).reshape(-1) for _, row, _ in content]))
            if not all(isinstance(caption, str) for _, caption, _ in entries):
                raise TypeError("a caption that is no text")
        except (KeyError, TypeError, ValueError) as error:
            fact = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise SourceError(f"{path} is no pickle of embeddings that is known here ({fact}); see --help") from error
        return group_rows(path, "clipxgpt-pickle", rows, entries, [None] * len(entries), [])


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


def _is_pickle(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pkl", ".pickle")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError:
        return b""
