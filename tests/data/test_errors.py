"""Messages are one line, whatever is in the names that they have."""

import copy
from pathlib import Path

import pytest

from clipcap.data.errors import CacheError, ClipCapError, UnknownSourceError, unreadable


@pytest.mark.parametrize("kind", [ClipCapError, CacheError])
def test_a_line_break_in_a_name_is_shown_and_breaks_no_line(kind: type[ClipCapError]) -> None:
    error = kind("a\nb\r\u2028c.h5 is damaged")
    assert str(error) == r"a\nb\r\u2028c.h5 is damaged"
    assert str(copy.copy(error)) == str(error)  # as one from a worker process is made again


def test_an_unknown_source_has_its_three_lines() -> None:
    error = UnknownSourceError("one\rfound\ntwo\nthree")
    assert str(error) == "one\\rfound\ntwo\nthree"
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_ran_out_is_not_blamed_on_the_file(error: Exception) -> None:
    assert str(unreadable(Path("a.pt"), error, "give another file")).startswith("a.pt needs more memory than there is")
    assert "give another file" in str(unreadable(Path("a.pt"), RuntimeError("bad header"), "give another file"))
