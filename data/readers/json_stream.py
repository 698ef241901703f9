"""Reads a large JSON file item by item, so that a file of a million images is never in memory as a whole.

    {"info": {...}, "images": [{...}, {...}, ...], "annotations": [...]}    `json_members`
    [{...}, {...}, ...]                                                     `json_items`

`json_lists` gives some of the arrays of an object, in an order of choice.

Each item is decoded by Python's `json`, and what is not valid JSON is an error here as there. The messages are shorter,
so a caller that fails here loads the whole file with `json_whole`, if it is small enough.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from clipcap.data.files import MAX_TEXT_BYTES, open_file, open_text, parse_json

# What reading a file raises that is no JSON, or has another layout than expected.
INVALID = (ValueError, KeyError, TypeError, AttributeError)
_CHARACTERS = 1 << 20  # that are read at once
_LONGEST_ITEM = 1 << 25  # characters
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_ENDS = tuple(" \t\n\r,:]}")
_SPACE = re.compile(r"[ \t\n\r]*")


def json_members(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the keys and the values of a JSON object in the order of the file.

    A value that is an array is given as an iterator of its items, which must be taken before the next key.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, not a JSON object, nested too deeply, or an item is too long.
    """
    with open_text(file) as opened:
        stream = _Stream(opened)
        stream.expect("{")
        end = stream.expect("}") if stream.peek() == "}" else ","
        while end != "}":
            key = stream.value()
            if not isinstance(key, str):
                raise ValueError("a key is not text")
            stream.expect(":")
            if stream.peek() == "[":
                items = stream.items()
                yield key, items
                for _ in items:  # those that the caller did not take
                    pass
            else:
                yield key, stream.value()
            end = stream.expect(",}")
        stream.expect_end()


def json_items(file: Path) -> Iterator[Any]:
    """Yield the items of a JSON array.

    Raises:
        OSError, ValueError: as `json_members`.
    """
    with open_text(file) as opened:
        stream = _Stream(opened)
        yield from stream.items()
        stream.expect_end()


def json_lists(file: Path, *keys: str) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield the arrays of a JSON object that have these keys, in the order of the keys.

    The file is read once if that is its own order, else once for each array that comes too early.

    Raises:
        OSError, ValueError: as `json_members`, or a key occurs twice.
        KeyError: there is no such key.
        TypeError: its value is no array.
    """
    wanted = list(keys)
    while wanted:
        before = len(wanted)
        seen: set[str] = set()
        for key, value in json_members(file):
            if key in keys and key in seen:
                raise ValueError(f"it has {key!r} twice")
            seen.add(key)
            if wanted and key == wanted[0]:
                yield wanted.pop(0), _checked_list(key, value, Iterator)
        if len(wanted) == before:
            raise KeyError(wanted[0])


def whole_lists(file: Path, streamed: Exception, *keys: str) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield what `json_lists` yields, from `json_whole`.

    Raises:
        OSError, ValueError: as `json_whole`.
        KeyError, TypeError: as `json_lists`.
    """
    content = json_whole(file, streamed)
    for key in keys:
        yield key, _checked_list(key, content[key], list)


def json_whole(file: Path, streamed: Exception) -> Any:
    """Decode a file that could not be read item by item: in UTF-16 or UTF-32, or to say what is wrong with it.

    Args:
        file: the file.
        streamed: why it could not be read item by item, which is raised if it has more than `MAX_TEXT_BYTES`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    with open_file(file) as opened:
        data = opened.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise streamed
    return parse_json(data.decode(json.detect_encoding(data)))


def _checked_list(key: str, value: Any, kind: type) -> Iterator[Any]:
    if not isinstance(value, kind):
        raise TypeError(f"{key!r} holds a {type(value).__name__}, not a list")
    return cast("Iterator[Any]", value)


class _Stream:
    """The text of a file, of which only what was not decoded yet is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._position = 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Go to the next character that is no white space, and return it; at the end of the file, return ""."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text) or not self._read_more():
                return self._text[self._position : self._position + 1]

    def expect(self, characters: str) -> str:
        """Skip the next character, which must be one of these, and the white space after it; return the character."""
        character = self.peek()
        if not character or character not in characters:
            raise ValueError(f"expected one of {characters}, found {character!r}")
        self._position += 1
        self.peek()
        return character

    def expect_end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise ValueError("extra data")

    def value(self) -> Any:
        """Decode the value that is next."""
        while True:
            try:
                value, end = self._decode(self._text, self._position)
                # Of 4.5e6, the text may end with 4.5e, which is decoded as 4.5. What ends a value must follow it.
                if self._text[end : end + 1] in _ENDS or not self._read_more():
                    self._position = end
                    return value
            except RecursionError as error:
                raise ValueError("it is nested too deeply") from error
            except ValueError:
                if not self._read_more():
                    raise
                self.peek()

    def items(self) -> Iterator[Any]:
        """Yield the items of the array that is next."""
        self.expect("[")
        if self.peek() == "]":
            self._position += 1
            return
        while True:
            yield self.value()
            comma = _COMMA.match(self._text, self._position)  # which takes half of the time of `expect`
            if comma:
                self._position = comma.end()
            elif self.expect(",]") == "]":
                return

    def _read_more(self) -> bool:
        """Read more of the file, as much as there is of the value already; return whether there was more."""
        kept = self._text[self._position :]
        if len(kept) > _LONGEST_ITEM:
            raise ValueError(f"an item has more than {_LONGEST_ITEM:,} characters")
        more = self._file.read(max(_CHARACTERS, len(kept)))
        if more:
            self._text, self._position = kept + more, 0
        return bool(more)
