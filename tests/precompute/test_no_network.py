"""Weights that cannot be downloaded are one line of error within seconds. Local sockets stand in for the hub."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "clipcap.precompute.cli"]


@contextmanager
def silent_hub() -> Iterator[tuple[str, list[socket.socket]]]:
    """Run a server that accepts connections and never answers, like a firewall that drops packets."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connections.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", connections
    finally:
        server.close()
        for connection in connections:
            connection.close()


def precompute(folder: Path, hub: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hub"), "no_proxy": "127.0.0.1"}
    (folder / "work").mkdir()
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("kind", ["refuses", "silent"])
def test_missing_weights_of_a_tag_are_one_line_and_nothing_is_written(coco: Path, tmp_path: Path, kind: str) -> None:
    options = ["--encoder", "ViT-B-32", "--pretrained", "openai"]
    with silent_hub() as (address, connections):
        hub = "http://127.0.0.1:9" if kind == "refuses" else address
        done = precompute(tmp_path, hub, coco, *options)
        asked = len(connections)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "clipcap-precompute: the weights 'openai' of ViT-B-32 cannot be loaded: no network, and they were never "
        "downloaded here; connect once, or give a file of weights as --pretrained"
    )
    assert len(done.stderr.splitlines()) == 2  # the other line describes the source
    assert list((tmp_path / "work").iterdir()) == []
    # The hub is asked once. The library alone would ask twelve times, with pauses, for 46 seconds.
    assert asked == (1 if kind == "silent" else 0)


def test_a_missing_tokenizer_is_one_line_and_nothing_is_written(coco: Path, tmp_path: Path, clip_folder: Path) -> None:
    with silent_hub() as (address, connections):
        done = precompute(tmp_path, address, coco, "--encoder", clip_folder, "--tokenizer", "gpt2")
        assert len(connections) == 1
    assert done.returncode == 2
    assert "'gpt2'" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "work").iterdir()) == []
