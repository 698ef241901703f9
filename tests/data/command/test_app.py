"""The frame of the commands: exit statuses and one-line errors."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import pytest
import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.errors import CacheError
from clipcap.data.memory import exhausted_memory
from clipcap.data.version import program_version


def leave(action: Callable[[], None], arguments: list[str]) -> int:
    app = new_app()

    @command(app, examples="")
    def program(number: int = 0, debug: Debug = False, version: Version = False) -> None:
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
    assert leave(fail_with(CacheError("a  b\n.h5 is gone; look for it")), []) == 2
    assert capsys.readouterr() == ("", "clipcap-test: a  b\\n.h5 is gone; look for it\n")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(CacheError("gone")), ["--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("clipcap-test: gone\n")


def test_a_fault_of_ours_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(ZeroDivisionError("division by zero")), []) == 1
    expected = "clipcap-test: unexpected ZeroDivisionError: division by zero (--debug shows the traceback)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ESTALE, "Stale file handle", "out/c.h5"), "out/c.h5 cannot be read or written: Stale"),
        (OSError(errno.ESTALE, "Stale file handle"), "a file cannot be read or written: Stale file handle"),
        (OSError(errno.ENOSPC, "No space left on device", "c.h5"), "the disk is full (c.h5)"),
    ],
)
def test_a_fault_of_the_machine_is_one_line_and_status_2(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(fail_with(error), []) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"clipcap-test: {message}")
    assert err.count("\n") == 1
    assert "again" in err or "run the same command" in err


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


def test_help_lists_options_in_groups_with_examples_last(capsys: pytest.CaptureFixture[str]) -> None:
    app = new_app()

    @command(app, examples="clipcap-test one\nclipcap-test two  # not wrapped")
    def program(
        epochs: Annotated[int, typer.Option(rich_help_panel="Training", help="Passes.")] = 3, debug: Debug = False
    ) -> None:
        pass

    for option in ("-h", "--help"):
        with pytest.raises(SystemExit) as leaving:
            run_command(app, "clipcap-test", [option])
        assert leaving.value.code == 0
        out = capsys.readouterr().out
        headings = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert headings == ["Training:", "Other:", "Examples:"]
        assert out.endswith("  clipcap-test one\n  clipcap-test two  # not wrapped\n")


def test_version_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(lambda: None, ["--version"]) == 0
    assert capsys.readouterr().out == f"clipcap-test {program_version()}\n"


def test_parameters_in_backticks_become_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(CacheError("`number` is too large for `something_else`")), []) == 2
    assert capsys.readouterr().err == "clipcap-test: --number is too large for `something_else`\n"


def test_shell_completion_completes_options() -> None:
    environment = {**os.environ, "_CLIPCAP_TRAIN_COMPLETE": "complete_bash", "COMP_WORDS": "clipcap-train --sam"}
    code = "from clipcap.train.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "COMP_CWORD": "1"}, capture_output=True, text=True, check=True
    )
    assert "--sampling" in done.stdout.split()


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), "the memory of this machine"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "this machine"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the memory of this machine"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"),
            "the memory of the GPU",
        ),
    ],
)
def test_memory_that_runs_out_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], error: Exception, memory: str
) -> None:
    assert leave(fail_with(error), []) == 2
    err = capsys.readouterr().err
    assert f"{memory} ran out (" in err
    assert len(err.splitlines()) == 1


def test_memory_that_ran_out_is_found_behind_other_errors() -> None:
    wrapped = ValueError("cannot be loaded")
    wrapped.__cause__ = MemoryError()
    assert exhausted_memory(wrapped) == "the memory of this machine"
    assert exhausted_memory(RuntimeError("a shape does not fit")) is None
    assert exhausted_memory(FileNotFoundError(errno.ENOENT, "out of memory.json")) is None
    circle = ValueError("a")
    circle.__context__ = other = ValueError("b")
    other.__context__ = circle
    assert exhausted_memory(circle) is None


def test_a_path_that_the_system_refuses_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(fail_with(OSError(errno.ENAMETOOLONG, "File name too long", "a\nb")), []) == 2
    expected = "clipcap-test: a b cannot be used (File name too long); correct that, or give another path\n"
    assert capsys.readouterr().err == expected
