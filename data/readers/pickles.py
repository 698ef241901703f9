"""Pickles with embeddings and captions, as earlier ClipCap programs write them.

`read_pickle` reads them without running the code that a pickle may contain.
"""

from pathlib import Path

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.rows import Entry, as_rows, group_rows
from clipcap.data.records import Source
from clipcap.data.safe_pickle import read_pickle


class ClipCapPickleReader(FileReader):
    """Reads what rmokady's parse_coco.py and parse_conceptual.py write: `clip_embedding`, and one dict per caption.

    The `_tokens.pkl` that training leaves beside it is ignored.
    """

    expected_layout = "rmokady's .pkl with clip_embedding and captions"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" in _head(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        content = read_pickle(file)
        try:
            rows = as_rows(file, content["clip_embedding"])
            entries = [
                Entry(str(caption["image_id"]), caption["caption"], int(caption["clip_embedding"]))
                for caption in content["captions"]
            ]
            _check_captions(entries)
        except (KeyError, TypeError, ValueError) as error:
            fact = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise SourceError(f"{file} is not {self.expected_layout} ({fact}); make the file again") from error
        notes: list[str] = []
        shift = _shift(file, [entry.row for entry in entries], len(rows))
        if shift:
            # parse_conceptual.py appends the training rows to the validation rows, but counts them from 0 again.
            entries = [
                Entry(f"val/{name}", caption, row, "val")
                if i < shift
                else Entry(f"train/{name}", caption, row + shift, "train")
                for i, (name, caption, row, _) in enumerate(entries)
            ]
            notes.append(
                f"the row numbers start at 0 again at caption {shift:,}; this was repaired, and the {shift:,} captions "
                "before it are the val split"
            )
        return group_rows(file, "clipcap-pickle", rows, entries, notes)


class ClipXGptPickleReader(FileReader):
    """Reads what jmisilo's dataset_generation.py writes: a list of (image name, row, caption)."""

    expected_layout = "jmisilo's .pkl with a list of (image name, row, caption)"

    def recognises(self, file: Path) -> bool:
        return _is_pickle(file) and b"clip_embedding" not in _head(file) and not file.stem.endswith("_tokens")

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        import numpy as np

        content = read_pickle(file)
        try:
            entries = [Entry(str(name), caption, i) for i, (name, _, caption) in enumerate(content)]
            rows = as_rows(file, np.stack([np.asarray(row).reshape(-1) for _, row, _ in content]))
            _check_captions(entries)
        except (KeyError, TypeError, ValueError) as error:
            fact = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise SourceError(f"{file} is not a pickle of a known format ({fact}); use one of rmokady's or jmisilo's"
                              ) from error  # fmt: skip
        return group_rows(file, "clipxgpt-pickle", rows, entries)


def _check_captions(entries: list[Entry]) -> None:
    for entry in entries:
        if not isinstance(entry.caption, str):
            raise TypeError(f"the caption of {entry.name} is not text")


def _shift(file: Path, rows: list[int], count: int) -> int:
    """Return the caption at which the row numbers start at 0 again although there are more rows; 0 if there is none.

    The row numbers 0 1 2 3 4 | 0 1 2 3 of 9 rows give 5: the last four captions belong to rows 5 to 8.

    Raises:
        SourceError: the numbers start again, but the second part does not cover all remaining rows in order.
    """
    start = next((i for i, row in enumerate(rows) if i and row == 0 != rows[i - 1]), 0)
    if not start or rows[:start] != list(range(start)) or count <= start:
        return 0
    if len(rows) == count and rows[start:] == list(range(count - start)):
        return start
    raise SourceError(
        f"{file}: the row numbers start at 0 again at caption {start:,}, and {count:,} rows cannot be matched with "
        f"{len(rows):,} captions; make the file again"
    )


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in (".pkl", ".pickle") and path.is_file()


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError:
        return b""
