"""Ctrl-C is not lost where Python ignores it."""

import os
import signal

import pytest

from clipcap.data.command.interrupt import raise_if_interrupted, remember_interrupts
from clipcap.data.command.progress import Progress


class Destructor:
    """Gets a Ctrl-C while it is destroyed, where Python prints the exception and goes on."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions
            pass


@pytest.mark.posix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_ignores_is_raised_at_the_next_report_of_progress() -> None:
    with remember_interrupts(), Progress("encoding", "images", 10) as progress:
        progress.advance()
        thing: Destructor | None = Destructor()
        assert thing is not None
        thing = None
        with pytest.raises(KeyboardInterrupt):
            progress.advance()
        assert progress.done == 1
    raise_if_interrupted()  # the next command begins without it
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_raised_at_once_where_python_can() -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


def test_a_handler_of_another_program_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remember_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_that_a_library_makes_of_an_interrupt_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        except KeyboardInterrupt:
            raise TypeError("could not determine the shape of object type") from None
    with pytest.raises(TypeError), remember_interrupts():  # the next command's errors are its own
        raise TypeError
