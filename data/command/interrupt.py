"""Ctrl-C that is never lost while a command runs.

Python raises KeyboardInterrupt wherever the program happens to be. In the callback of a weak reference or in a
destructor, which h5py has many of, it is printed and ignored, and the program runs on. So a command also remembers
Ctrl-C, and long work, which reports its progress, raises it again at the next report. Libraries in C also turn it into
errors of their own ("could not determine the shape of object type"), so an error that follows a Ctrl-C becomes one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_interrupted = threading.Event()


@contextmanager
def remember_interrupts() -> Iterator[None]:
    """Remember a Ctrl-C that arrives while inside. Other threads and programs with a handler of their own are left
    alone.
    """
    _interrupted.clear()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    except Exception as error:
        if _interrupted.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupted.clear()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed since the command began."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(number, frame)
