"""A crash at any moment leaves the old file or the new one; links at temporary names are not followed."""

import errno
import os
from pathlib import Path

import pytest

from clipcap.data.cache.atomic import make_new_folder, open_whole, recover_folder, replace_folder, set_aside, write_file
from clipcap.data.errors import ClipCapError
from small_world import Crash, crash_at


@pytest.mark.parametrize("count", range(4))
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        crash_at(patch, count)
        try:
            write_file(path, b"new")
            crashed = False
        except Crash:
            crashed = True
    assert path.read_bytes() == (b"old" if count < 2 else b"new")
    assert crashed == (count < 3)
    write_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("count", range(7))
def test_a_folder_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    old, new = tmp_path / "last", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
        (folder / "b").write_text(text)
    with monkeypatch.context() as patch:
        crash_at(patch, count)
        try:
            replace_folder(new, old)
            crashed = False
        except Crash:
            crashed = True
    assert crashed == (count < 6)
    recover_folder(old)
    assert not set_aside(old).exists()
    contents = {(old / name).read_text() for name in "ab"}
    # One folder and two files are synced first, so the renames are the fourth and fifth calls.
    assert contents == ({"old"} if count < 5 else {"new"})


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.h5"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClipCapError, match=r"cache\.h5"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["cache.h5"]


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / ".file.partial").symlink_to(tmp_path / "precious")
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_bytes() == b"kept"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/precious").write_bytes(b"kept")
    (tmp_path / ".last.partial").symlink_to(tmp_path / "folder")
    make_new_folder(tmp_path / ".last.partial")
    assert not (tmp_path / ".last.partial").is_symlink()
    assert (tmp_path / "folder/precious").read_bytes() == b"kept"


def test_an_incomplete_file_does_not_replace_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), open_whole(tmp_path / "file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_link_where_the_old_folder_is_set_aside_is_not_followed(tmp_path: Path) -> None:
    for name in ("precious", "last", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".last.old").symlink_to(tmp_path / "precious")
    replace_folder(tmp_path / "new", tmp_path / "last")
    assert (tmp_path / "precious/file").read_text() == "precious"
    assert (tmp_path / "last/file").read_text() == "new"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["last", "precious"]
