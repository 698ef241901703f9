"""The frame around the commands: exit statuses and one-line errors."""

from collections.abc import Callable

import pytest
import typer

from clipcap.data.command.app import Debug, new_app, run_command
from clipcap.data.errors import CacheError


def leave(action: Callable[[], None], arguments: list[str]) -> int:
    app = new_app()

    @app.command()
    def command(number: int = 0, debug: Debug = False) -> None:
        action()

    with pytest.raises(SystemExit) as leaving:
        run_command(app, "clipcap-test", arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def fail_with(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_an_error_of_ours_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(CacheError("x.h5 is\n  gone; look for it")), []) == 2
    assert capsys.readouterr() == ("", "clipcap-test: x.h5 is gone; look for it\n")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(CacheError("gone")), ["--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("clipcap-test: gone\n")


def test_a_fault_of_ours_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(ZeroDivisionError("division by zero")), []) == 1
    expected = "clipcap-test: unexpected ZeroDivisionError: division by zero (--debug shows the traceback)\n"
    assert capsys.readouterr().err == expected


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "clipcap-test: interrupted\n"


@pytest.mark.parametrize("arguments", [["--number", "x"], ["--nonsense"], ["too", "many"]])
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(lambda: None, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("clipcap-test: ")
    assert err.endswith("See clipcap-test --help.\n")


def test_success_is_status_0() -> None:
    assert leave(lambda: None, ["--number", "3"]) == 0
    assert leave(fail_with(typer.Exit()), []) == 0
