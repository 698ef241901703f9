"""One process at a time holds a lock, and one that died does not keep it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipcap.data import lock
from clipcap.data.errors import ClipCapError, UsageError
from clipcap.data.lock import hold_lock

ROOT = Path(__file__).resolve().parents[2]

HOLD = """
import os, sys, time, types
package = types.ModuleType("clipcap")
package.__path__ = [sys.argv[1]]
sys.modules["clipcap"] = package
from pathlib import Path
from clipcap.data.lock import hold_lock
with hold_lock(Path(sys.argv[2]), "runs/demo"):
    runs, started = os.pipe()
    child = os.fork() if sys.argv[3] == "fork" else None
    if child == 0:
        os.write(started, b".")  # only code that runs after the fork's own handlers: the file is closed here
    else:
        if child:
            os.read(runs, 1)
        print(child or 0, flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(path: Path, how: str = "alone") -> "Iterator[tuple[subprocess.Popen[str], int]]":
    """A process that holds the lock until it is killed, and the id of its forked child (0 where it has none)."""
    command = [sys.executable, "-c", HOLD, str(ROOT), str(path), how]
    child = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            yield process, child
        finally:
            process.kill()
            if child:
                os.kill(child, signal.SIGKILL)


def test_the_file_names_this_process_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold_lock(path, "out"):
        content = json.loads(path.read_text())
        assert (content["version"], content["pid"]) == (1, os.getpid())
    assert not path.exists()


def test_the_file_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), hold_lock(tmp_path / ".lock", "out"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_with_the_id_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with another_process(path) as (process, _):
        before = path.read_bytes()
        with pytest.raises(UsageError, match=rf"runs/demo is in use by process {process.pid}\b"), \
                hold_lock(path, "runs/demo"):  # fmt: skip
            pytest.fail("two processes hold the lock")
        assert path.read_bytes() == before


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with another_process(path) as (process, _):
        process.kill()
        process.wait()
        assert json.loads(path.read_text())["pid"] == process.pid
        with hold_lock(path, "out"):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_forked_worker_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with another_process(path, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is alive
        with hold_lock(path, "out"):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_reading_the_file_does_not_release_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold_lock(path, "out"):
        path.read_bytes()
        child = os.fork()
        if not child:
            try:
                with hold_lock(path, "out"):
                    os._exit(1)
            except UsageError:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_that_leaves_the_block_does_not_release_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    context = hold_lock(path, "out")
    with context:
        child = os.fork()
        if not child:
            try:
                context.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert path.exists()


def test_the_same_process_cannot_hold_a_lock_twice(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold_lock(path, "out"):
        with pytest.raises(UsageError, match=str(os.getpid())), hold_lock(tmp_path / "." / ".lock", "out"):
            pytest.fail("held twice")
        assert path.exists()
        with hold_lock(tmp_path / "other", "other"):
            pass
    with hold_lock(path, "out"):
        pass


def test_a_file_that_was_removed_between_open_and_lock_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = tmp_path / ".lock", []
    original = lock._lock

    def remove_first(path: Path, descriptor: int) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            path.unlink()
        return original(path, descriptor)

    monkeypatch.setattr(lock, "_lock", remove_first)
    with hold_lock(path, "out"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert len(tries) == 2


def test_a_symbolic_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / ".lock", tmp_path / "precious"
    for _ in range(2):  # without its target, and with it
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        existed = target.exists()
        with pytest.raises(UsageError, match=r"\.lock"), hold_lock(path, "out"):
            pytest.fail("held through a link")
        assert target.exists() == existed
        target.write_text("")
    assert path.is_symlink()


@pytest.mark.parametrize("content", ["precious", "[1]", '{"a": 1}'])
def test_a_file_that_is_no_lock_file_is_left_untouched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes"
    path.write_text(content)
    with pytest.raises(UsageError, match="notes"), hold_lock(path, "out"):
        pytest.fail("held by a foreign file")
    assert path.read_text() == content


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_a_lock_file_that_was_never_filled_is_taken_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".lock"
    path.write_bytes(content)
    with hold_lock(path, "out"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipCapError, match="nowhere"), hold_lock(tmp_path / "nowhere" / ".lock", "out"):
        pytest.fail("held in no folder")


def test_without_fcntl_the_file_itself_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    path = tmp_path / ".lock"
    with hold_lock(path, "out"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    path.write_text('{"pid": 1}')
    with pytest.raises(UsageError, match=r"\.lock"), hold_lock(path, "out"):
        pytest.fail("held twice")
