"""Reads safetensors files of strangers: the shapes from the header alone, and then the tensors.

A tensor takes no more memory than it has bytes in the file, so that shapes which fit a model bound what a model takes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.data.errors import one_line
from clipcap.data.files import open_file
from clipcap.data.memory import exhausted_memory

if TYPE_CHECKING:
    import torch

Shapes = dict[str, tuple[int, ...]]


def read_shapes(file: Path) -> Shapes:
    """Read the shape of each tensor, by name. No tensor is read.

    Raises:
        OSError: as `open_file`.
        ValueError: it is not safetensors, or its header does not fit the file.
    """
    from safetensors import safe_open

    open_file(file).close()
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except Exception as error:
        raise _not_safetensors(error) from error


def read_tensors(file: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors, by name, onto the CPU.

    Raises:
        OSError, ValueError: as `read_shapes`.
    """
    from safetensors.torch import load_file

    open_file(file).close()
    try:
        return load_file(file)
    except Exception as error:
        raise _not_safetensors(error) from error


def _not_safetensors(error: Exception) -> Exception:
    """Return the error for what the library raised: SafetensorError, KeyError for a dtype that torch lacks, OSError."""
    if isinstance(error, OSError) or exhausted_memory(error):
        return error
    return ValueError(one_line(error))
