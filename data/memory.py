"""Tells memory that ran out from every other error, so that no whole file is called damaged for it.

A handler that would otherwise blame a file raises such an error again; the frame of the commands shows it in one line.
"""

import errno
import re

# torch raises RuntimeErrors for the memory of a CPU, and libraries in Rust or C++ pass on the words of the system.
_WORDS = re.compile(r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|out of memory", re.I)


def exhausted_memory(error: BaseException | None) -> str | None:
    """Return which memory ran out, if an exception of any library means that, or was caused by one that does.

    Returns:
        "the memory of this machine" or "the memory of the GPU"; None if the exception means something else.
    """
    seen = 0
    while error is not None and seen < 20:  # causes may form a circle
        on_gpu = type(error).__name__ == "OutOfMemoryError"  # of torch, which is not imported for this
        by_words = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
        if on_gpu or (by_words and re.search(r"(CUDA|MPS|HIP).*out of memory", str(error))):
            return "the memory of the GPU"
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return "the memory of this machine"
        if by_words and _WORDS.search(str(error)):
            return "the memory of this machine"
        error = error.__cause__ or error.__context__
        seen += 1
    return None
