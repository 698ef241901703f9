"""With the models in local folders, no command asks for anything beyond this machine: no weights, no reports of use."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from small_world import command_line, small_models, without_sockets

pytestmark = pytest.mark.slow


def asked(folder: Path) -> list[str]:
    """What processes that obey NO_SOCKETS asked for beyond this machine."""
    file = folder / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_the_guard_lets_this_machine_pass_and_reports_what_is_beyond_it(tmp_path: Path) -> None:
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
for ask in (lambda: socket.create_connection(("192.0.2.1", 80)), lambda: socket.getaddrinfo("example.com", 80)):
    try:
        ask()
    except OSError as error:
        assert str(error) == "sockets are refused"
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], env=without_sockets(tmp_path), check=True)
    assert asked(tmp_path) == ["192.0.2.1", "example.com"]


def test_all_stages_evaluate_and_inspect_ask_for_nothing(
    coco: Path, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path, tmp_path: Path
) -> None:
    guard = tmp_path / "guard"
    environment = without_sockets(guard)
    cache, run, image = tmp_path / "c.h5", tmp_path / "run", next((coco / "val2017").iterdir())
    training = ["--lm", lm_folder, "--epochs", 1, "--batch-size", 9, "--device", "cpu"]
    for command, arguments in [
        ("precompute", [coco, "-o", cache, *small_models(clip_folder, tokenizer_folder)]),
        ("train", [cache, "-o", run, *training]),
        ("caption", [image, "--model", run, "--device", "cpu"]),
        ("evaluate", [cache, "--model", run, "--device", "cpu", "--report", tmp_path / "report.html"]),
        ("inspect", [cache, "--verify"]),
        ("inspect", [run / "best", "--doctor"]),
    ]:
        done = subprocess.run(
            command_line(command, arguments), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        assert asked(guard) == [], command


def test_the_demo_asks_for_nothing(demo_run: Any) -> None:
    folder, _ = demo_run
    assert asked(folder.parent) == []


def test_libraries_report_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcap.data.command.app import quiet_libraries

    monkeypatch.setattr(os, "environ", {})
    quiet_libraries(debug=True)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
