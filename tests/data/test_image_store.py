"""Reading image files: what is no file is named, and never waited for."""

import os
import socket
from pathlib import Path

import pytest

from clipcap.data import image_store
from clipcap.data.errors import ImageError
from clipcap.data.image_store import FolderStore


def test_a_file_is_read_by_the_path_of_its_record(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").write_bytes(b"content")
    assert FolderStore(tmp_path).read("a/b.jpg") == b"content"


def test_what_is_no_image_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        server.bind("socket.jpg")
    (tmp_path / "large.jpg").write_bytes(b"12345")
    monkeypatch.setattr(image_store, "MAX_BYTES", 4)
    reasons = {
        "fifo.jpg": "a FIFO, not a file",
        "folder.jpg": "a folder, not a file",
        "device.jpg": "a device, not a file",
        "socket.jpg": "a socket, not a file",
        "large.jpg": "5 bytes: too large for an image",
        "nowhere.jpg": "there is no such file",
        "nul\0.jpg": "its name holds a NUL character",
    }
    before = next_descriptor()
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            FolderStore(tmp_path).read(name)
        assert str(caught.value) == reason, name
    assert next_descriptor() == before  # nothing stays open


def next_descriptor() -> int:
    """Return the number that the next opened file gets."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor
