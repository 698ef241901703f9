"""Reads files of embeddings: `.npy`, `.npz`, and the pickles of ClipCap and CLIPxGPT, none of whose code is run."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.files import open_file
from clipcap.data.readers import read_source
from clipcap.data.readers.arrays import read_arrays
from clipcap.data.readers.npy import read_header

PICKLES = {".pkl", ".pickle"}
ROW_FILES = {".npy", ".npz", *PICKLES}


def read_rows(path: Path) -> tuple[np.ndarray[Any, Any], list[str] | None]:
    """Read the embeddings of a file. A `.npy` is mapped into memory, the others are read whole.

    Args:
        path: a file with one of the suffixes `ROW_FILES`.

    Returns:
        The rows, numbers of any shape; of a pickle, one row (d,) for each image. And their names, as the file has them;
        None if it has none.

    Raises:
        SourceError: the file cannot be read, holds no numbers, or names an image more than once.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        source = read_source(path)
        assert source.embedding is not None
        return source.embedding, [record.path for record in source.records]
    rows, names = read_arrays(path) if suffix == ".npz" else (_map(path), None)
    if rows.dtype.kind not in "fiu":
        raise SourceError(f"{path} holds {rows.dtype}, not rows of numbers; save float rows with numpy.save")
    return rows, names


def _map(path: Path) -> np.ndarray[Any, Any]:
    try:
        with open_file(path) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
            order: Literal["F", "C"] = "F" if header.fortran else "C"
            return np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)
    except OSError as error:
        raise unreadable(path, error, "give another file") from error
    except ValueError as error:
        fact = f"{path} holds no rows of numbers ({one_line(error)})"
        raise SourceError(f"{fact}; save them with numpy.save") from error
