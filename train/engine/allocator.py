"""Memory of a CPU that is freed in one step and wanted in the next."""

import ctypes
import os
from contextlib import suppress
from typing import Any


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next step, in large pages.

    By default it gives every block above 32 MB back to the system, which then hands out the next one page by page: a
    third of a step's time on a CPU. As PyTorch's tuning guide has it for other allocators, by LD_PRELOAD. Elsewhere
    nothing happens. Large pages must be asked for before torch allocates anything.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(OSError, AttributeError):
        mallopt: Any = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing goes back
        mallopt(-2, 64 << 20)  # M_TOP_PAD: what is asked for comes in pieces that large pages fit into
