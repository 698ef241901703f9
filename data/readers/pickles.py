"""Pickles with embeddings and captions, as earlier ClipCap programs write them.

`read_pickle` reads them without running the code that a pickle may contain.
"""

from pathlib import Path

from clipcap.data.errors import SourceError, one_line
from clipcap.data.files import open_file
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.rows import Entry, as_rows, group_rows
from clipcap.data.records import Source
from clipcap.data.safe_pickle import read_pickle

_MOST_RATIO, _MOST_BYTES = 16, 1 << 24  # of all captions and names


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
            _check_captions(file, entries)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
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
            unique = {id(row): row for _, row, _ in content}  # one for each image, which several captions may share
            number = {key: i for i, key in enumerate(unique)}
            entries = [Entry(str(name), caption, number[id(row)]) for name, row, caption in content]
            rows = as_rows(file, np.stack([np.asarray(row).reshape(-1) for row in unique.values()]))
            _check_captions(file, entries)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            fact = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise SourceError(f"{file} is not a pickle of a known format ({fact}); use one of rmokady's or jmisilo's"
                              ) from error  # fmt: skip
        return group_rows(file, "clipxgpt-pickle", rows, entries)


def _check_captions(file: Path, entries: list[Entry]) -> None:
    """Refuse captions that are no text, and texts that a small file shares among very many captions."""
    for entry in entries:
        if not isinstance(entry.caption, str):
            raise TypeError(f"the caption of {entry.name:.60} is not text")
    if sum(len(entry.name) + len(entry.caption) for entry in entries) > _MOST_BYTES + _MOST_RATIO * file.stat().st_size:
        raise ValueError("its captions are far longer than the file")


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
        with open_file(path) as file:
            return file.read(256)
    except OSError:
        return b""
