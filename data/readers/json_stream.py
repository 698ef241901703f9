"""Reads a large JSON file item by item, so that a file of a million images is never in memory as a whole.

    {"info": {...}, "images": [{...}, {...}, ...], "annotations": [...]}    `json_members`
    [{...}, {...}, ...]                                                     `json_items`

Each item is decoded by Python's `json`, and what is not valid JSON is an error here as there. The messages are shorter,
so a caller that fails here loads the whole file with `json`, which also takes other encodings than UTF-8.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# What reading a file raises that is no JSON, or has another layout than expected.
INVALID = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_CHARACTERS = 1 << 20  # that are read at once
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_ENDS = tuple(" \t\n\r,:]}")
_SPACE = re.compile(r"[ \t\n\r]*")


def json_members(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the keys and the values of a JSON object in the order of the file.

    A value that is an array is given as an iterator of its items, which must be taken before the next key.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or not a JSON object.
        RecursionError: an item is nested too deeply.
    """
    with file.open(encoding="utf-8-sig") as opened:
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
        OSError, ValueError, RecursionError: as `json_members`.
    """
    with file.open(encoding="utf-8-sig") as opened:
        stream = _Stream(opened)
        yield from stream.items()
        stream.expect_end()


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
        more = self._file.read(max(_CHARACTERS, len(kept)))
        if more:
            self._text, self._position = kept + more, 0
        return bool(more)
