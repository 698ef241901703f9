"""Keeps memory that one step frees for the next one, on a CPU."""

import ctypes
import os
from contextlib import suppress
from typing import Any


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, in large pages.

    By default glibc returns every block above 32 MB to the system, and gets the next one page by page, which takes a
    third of a step's time on a CPU. (PyTorch's tuning guide replaces the allocator by LD_PRELOAD for the same reason.)
    With another C library this does nothing. Call it before torch allocates anything, or large pages are not used.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(OSError, AttributeError):
        mallopt: Any = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: no memory is returned
        mallopt(-2, 64 << 20)  # M_TOP_PAD: memory is requested in pieces that large pages fit into
