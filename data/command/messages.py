"""How a command shows what the library logs: one line on stderr for each message, above a running bar.

The library only logs, below the logger `clipcap`; a program that imports it decides what it hears.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.data.command.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

# A command that runs as `python -m clipcap.train.cli` logs below `__main__`.
LOGGERS = ("clipcap", "__main__")


@cache
def console() -> "Console":
    """The terminal that messages and bars share."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class MessageHandler(logging.Handler):
    """Prints each message on stderr, warnings in yellow; never on stdout.

    Args:
        rename: applied to each message before it is shown, so that parameters appear as the options of the command.
    """

    def __init__(self, rename: Callable[[str], str] = str) -> None:
        super().__init__(logging.INFO)
        self.rename = rename

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.rename(record.getMessage()))
        warning = record.levelno >= logging.WARNING
        if warning:
            text = f"warning: {text}"
        if sys.stderr.isatty():
            console().print(text, markup=False, style="yellow" if warning else "")
        else:
            print(text, file=sys.stderr, flush=True)


class FileHandler(logging.FileHandler):
    """Appends each message to a file, with its time. A full disk is reported by the work itself, not by its log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (named by logging)
        pass


@contextmanager
def show_messages(rename: Callable[[str], str] = str) -> Iterator[None]:
    """Show what the library logs while inside, as a command does."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with _handled_by(MessageHandler(rename)):
        for logger in loggers:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append what the library logs to a file while inside."""
    handler = FileHandler(path)
    with _handled_by(handler):
        try:
            yield
        finally:
            handler.close()


@contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def messages_are_shown() -> bool:
    """Whether a command shows messages, and so may draw bars too."""
    return any(isinstance(handler, MessageHandler) for handler in logging.getLogger(LOGGERS[0]).handlers)
