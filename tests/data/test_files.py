"""Files of strangers: regular files, of a bounded size and depth."""

import os
from pathlib import Path

import pytest

from clipcap.data.files import (
    MAX_DEPTH,
    as_object,
    open_file,
    parse_json,
    parse_toml,
    read_json,
    read_json_object,
    read_text,
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fifo", "a FIFO, not a file"),
        ("folder", "a folder, not a file"),
        ("device", "a device, not a file"),
        ("nul\0", "its name holds a NUL character"),
        ("half\ud800", "its name is no text that the file system takes"),
        ("nowhere", "No such file or directory"),
        ("n" * 5000, "File name too long"),
    ],
)
def test_only_regular_files_are_opened(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(OSError) as caught:
        open_file(tmp_path / name)
    assert caught.value.strerror == reason


def test_text_is_read_as_a_text_file_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xc3\xa9")
    assert read_text(file) == file.read_text(encoding="utf-8-sig") == "one\ntwo\nthree\n\u00e9"
    assert read_text(file, limit=file.stat().st_size) == read_text(file)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_text(file, limit=10)
    file.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(file)


@pytest.mark.parametrize(("parse", "prefix"), [(parse_json, ""), (parse_toml, "a = ")])
def test_depth_has_a_limit(parse: object, prefix: str) -> None:
    assert callable(parse)
    outer = MAX_DEPTH - bool(prefix)  # the table of a TOML file is a level itself
    assert parse(prefix + "[" * outer + "]" * outer)
    for depth in (outer + 1, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
            parse(prefix + "[" * depth + "]" * depth)


def test_an_object_is_demanded_where_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1, 2]")
    assert read_json(tmp_path / "list.json") == [1, 2]
    with pytest.raises(ValueError, match="it holds a list, not an object"):
        read_json_object(tmp_path / "list.json")
    assert as_object({"a": 1}) == {"a": 1}
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="property name"):
        read_json(tmp_path / "broken.json")
