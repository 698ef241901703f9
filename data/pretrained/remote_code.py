"""Models and tokenizers may come with code of their own (`auto_map` in their files); none of it is ever run.

transformers asks on the terminal whether to run such code, and a "y" that waits on stdin would answer. Our own calls
pass `trust_remote_code=False`. This module covers the calls that other libraries make.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def remote_code_refused() -> Iterator[None]:
    """While inside, let transformers raise ValueError where it would ask whether to run code of a model."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # with no time to answer, it raises at once
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before
