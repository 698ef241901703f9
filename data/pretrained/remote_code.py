"""Keeps transformers from running code that comes with a model or a tokenizer (`auto_map` in its files).

transformers asks on the terminal whether to run such code, and a "y" that waits on stdin would answer. Our own calls
pass `trust_remote_code=False`. This module covers the calls that other libraries make.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def remote_code_refused() -> Iterator[None]:
    """Inside the block, transformers raises ValueError where it would ask whether to run a model's code."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # with zero seconds to answer, it raises instead of asking
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before
