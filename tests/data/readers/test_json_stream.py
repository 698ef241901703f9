"""A JSON file that is read item by item gives what `json` gives, and is refused where `json` refuses it."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.readers import json_stream
from clipcap.data.readers.json_stream import json_items, json_members

OBJECTS = [
    "{}",
    '{"a": [1, 23, -4.5e6, "x, y]}", null, [], [[1], [2]], {"b": [true, false]}], "b": {"c": [1]}, "d": 12}',
    '\ufeff \n{ "a"\t:\r\n[ ] ,"b":["\\u72ac \\ud83d\\udc36 \\"",\n{"c":1 ,"c":2}\n]\n,"a":[NaN, -Infinity] } \n',
]


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def characters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read few characters at once, so that every value begins and ends at the border once."""
    monkeypatch.setattr(json_stream, "_CHARACTERS", request.param)


def write(folder: Path, text: str) -> Path:
    file = folder / "file.json"
    file.write_text(text, encoding="utf-8", newline="")
    return file


def members(file: Path) -> list[tuple[str, Any]]:
    values = ((key, value) for key, value in json_members(file))
    return [(key, list(value) if hasattr(value, "__next__") else value) for key, value in values]


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize("text", OBJECTS)
def test_the_members_of_an_object_are_those_that_json_finds(tmp_path: Path, text: str) -> None:
    expected = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=list)
    found = members(write(tmp_path, text))
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert repr(dict(found)) == repr(json.loads(text.removeprefix("\ufeff")))


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize("text", ["[]", " [ ] ", '[{"a": [1, 2]}, 34, "]",\n[5]\t, 6]\n'])
def test_the_items_of_an_array_are_those_that_json_finds(tmp_path: Path, text: str) -> None:
    assert list(json_items(write(tmp_path, text))) == json.loads(text)


@pytest.mark.usefixtures("characters")
def test_items_that_are_not_taken_are_skipped(tmp_path: Path) -> None:
    file = write(tmp_path, '{"a": [1, 2, 3], "b": [], "c": 4}')
    assert [key for key, _ in json_members(file)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="Expecting"):
        list(json_members(write(tmp_path, '{"a": [1, x], "b": 2}')))


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize("text", OBJECTS)
def test_an_object_that_is_cut_off_or_goes_on_is_refused(tmp_path: Path, text: str) -> None:
    whole = text.strip()
    for broken in (*(whole[:end] for end in range(len(whole))), f"{whole}x", f"{whole}}}", f"{whole} 1"):
        with pytest.raises(ValueError):  # each has a message of its own
            members(write(tmp_path, broken))


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "[]", '"a"', '{"a": 1,}', '{"a": [1,]}', '{"a": [1 2]}', '{"a" 1}', '{"a": 1 "b": 2}', "{1: 2}",
        '{"a": [,1]}', '{"a": ["\n"]}', '{"a": nan}', '{"a": 01}', '{"a": [1}', "{,}", "{'a': 1}",
    ],
)  # fmt: skip
def test_what_is_no_object_for_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        assert not isinstance(json.loads(text), dict)
        raise ValueError("no object")
    with pytest.raises(ValueError):
        members(write(tmp_path, text))


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes('["ä"]'.encode("latin-1"))
    with pytest.raises(ValueError, match="utf-8"):
        list(json_items(tmp_path / "file.json"))


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHARACTERS", 1 << 14)
    file = write(tmp_path, json.dumps({"images": [{"id": i, "name": f"{i:0100d}"} for i in range(20_000)]}))
    tracemalloc.start()
    count = sum(1 for _, images in json_members(file) for _ in images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < file.stat().st_size / 5
