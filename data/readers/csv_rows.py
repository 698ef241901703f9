"""Reads the rows of a CSV file, and finds quotes that are never closed.

A quote without its partner turns the rows after it into one long field, up to the next quote or the end of the file:

    image,caption
    a.jpg,"A dog            <- the quote that opens here ...
    b.jpg,A cat
    c.jpg,She said "hi"     <- ... closes here: one row, with the rows of b.jpg and c.jpg in the caption of a.jpg

Three checks find it, and a caption that legitimately spans lines passes them all:

* A quote that is still open at the end of the file is an error.
* A row that spans several lines must be valid in the strict sense: a delimiter or the end of the line follows each
  closing quote. A row on one line is read leniently, since it cannot hide another: `"Hi" she said` is `Hi she said`.
* Only one line of a row may name an image: `check_one_image`. It needs the table's columns, so the caller calls it.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipcap.data.csv_cells import unescape_formula
from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.images import SUFFIXES

_END = "\0end of the file"


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row.

    Attributes:
        number: of its first line in the file, from 1.
        lines: the lines that it spans, as they are in the file.
        fields: its values, without quotes, as they are before `unescape_formula`.
    """

    number: int
    lines: list[str]
    fields: list[str]


def read_csv_rows(file: Path, lines: Iterable[str], delimiter: str) -> Iterator[CsvRow]:
    """Yield the rows of a CSV, the header included; blank lines are skipped.

    Args:
        file: named in errors.
        lines: all of its lines, without their ends.
        delimiter: one character.

    Raises:
        SourceError: a quote is not closed in its row, or a field has more than 131,072 characters.
    """
    taken: list[str] = []  # the lines of the row that is being read

    def take() -> Iterator[str]:
        # One more line follows the last one: it becomes a part of the same row if a quote is still open.
        for line in lines:
            taken.append(f"{line}\n")
            yield taken[-1]
        taken.append(_END)
        yield _END

    number = 1
    rows = csv.reader(take(), delimiter=delimiter)
    while True:
        try:
            fields = next(rows)
            if len(taken) > 1:
                next(csv.reader(taken, delimiter=delimiter, strict=True))
        except csv.Error as error:
            if len(taken) == 1 and taken[0] is not _END:
                fact = f"{file} line {number}: {one_line(error)}"
                raise SourceError(f"{fact}; shorten the field, or leave the row out") from error
            raise _unclosed_quote(file, number, one_line(error)) from error
        if taken[-1] is _END:
            if len(taken) > 1:
                raise _unclosed_quote(file, number, "the file ends before it is closed")
            return
        if fields:
            yield CsvRow(number, taken.copy(), fields)
        number += len(taken)
        taken.clear()


def check_one_image(
    file: Path, row: CsvRow, delimiter: str, column: int, columns: int, exists: Callable[[str], bool]
) -> None:
    """Raise an error if a row that spans several lines names an image on more than one of them.

    Each line is split at the delimiter, and the value in the image column is looked at, counted from the start and from
    the end of the line, since a caption may contain delimiters. It names an image if that image exists, or if it looks
    like the name of one: it has an image's suffix and no spaces.

    Args:
        file: named in the error.
        row: the row.
        delimiter: of the table.
        column: number of the column of images, from 0.
        columns: number of columns.
        exists: whether there is an image with this name.

    Raises:
        SourceError: two lines name images.
    """

    def names_image(line: str) -> bool:
        values = [unescape_formula(value.strip().strip('"')) for value in line.split(delimiter)]
        places = {place for place in (column, len(values) - columns + column) if 0 <= place < len(values)}
        return any(exists(values[place]) or _looks_like_image(values[place]) for place in places)

    if len(row.lines) == 1:
        return
    naming = [number for number, line in enumerate(row.lines, row.number) if names_image(line)]
    if len(naming) > 1:
        raise _unclosed_quote(file, row.number, f"it contains line {naming[1]}, which is a row of its own")


def _looks_like_image(value: str) -> bool:
    return PurePosixPath(value).suffix.lower() in SUFFIXES and not any(character.isspace() for character in value)


def _unclosed_quote(file: Path, number: int, reason: str) -> SourceError:
    return SourceError(
        f"{file} line {number}: a quoted field that begins in this row is not closed properly ({reason}); close the "
        "quote, and write a quote inside a quoted field twice"
    )
