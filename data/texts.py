"""Many texts in one buffer: a million captions take the memory of their letters, and not of a million objects."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class Texts(Sequence[str]):
    """A sequence of texts that only grows at its end. It equals any sequence of the same texts.

    Each access makes the string again.

        buffer    A dog runs.|A cat.|Two men      UTF-8, where lone surrogates are kept
        ends     0           11     17     24     bytes

    Args:
        texts: to begin with.
    """

    __slots__ = ("_buffer", "_ends")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._buffer = bytearray()
        self._ends = array("Q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text at the end."""
        self._buffer += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._buffer))

    def truncate(self, count: int) -> None:
        """Keep the first `count` texts."""
        del self._ends[count + 1 :]
        del self._buffer[self._ends[-1] :]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self.pick(range(len(self))[index]))
        number = range(len(self))[index] if index < 0 else index
        return self._buffer[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return self.pick(range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def pick(self, numbers: Iterable[int]) -> Iterator[str]:
        """Yield the texts with these numbers, which must not be negative."""
        buffer, ends = self._buffer, self._ends
        return (buffer[ends[number] : ends[number + 1]].decode("utf-8", "surrogatepass") for number in numbers)
