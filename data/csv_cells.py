r"""Writes rows of CSV whose cells no spreadsheet runs as formulas, and reads such cells.

A spreadsheet that opens a CSV runs each cell that begins with `=`, `+`, `-` or `@`, and may do so after a tab or a line
break, or with the wide forms of these characters. Captions and file names come from strangers, so an apostrophe is
written before such a text. Spreadsheets then take it for text, and the readers of this program remove it again:

    text            cell
    a dog           a dog
    =1+1            '=1+1
    '=1+1           ''=1+1      so that every text is read as it was
    'tis a dog      'tis a dog

A `\r` inside a text would begin a new row, and with it a new cell, so texts with it are quoted. As in all texts, line
breaks of any kind are read as `\n`.
"""

import csv
import io
import re
from collections.abc import Iterable
from typing import TextIO

from clipcap.data.command.printable import printable

_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n]")  # the second four are the wide forms


def write_csv_row(stream: TextIO, cells: Iterable[str | float | None]) -> None:
    r"""Write one row, which ends with `\n`.

    Args:
        stream: the output; on a terminal, control characters are shown and not obeyed.
        cells: texts, which are escaped, and numbers, which are not; None is an empty cell.
    """
    line = io.StringIO()
    # Python's writer quotes the characters of its own line ends; before Python 3.13, `\r` only as one of these.
    writer = csv.writer(line, lineterminator="\r\n")
    show = printable if stream.isatty() else str
    writer.writerow([escape_formula(show(cell)) if isinstance(cell, str) else cell for cell in cells])
    stream.write(line.getvalue().removesuffix("\r\n") + "\n")


def escape_formula(text: str) -> str:
    """Return the cell of a text."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(cell: str) -> str:
    """Return the text of a cell; a cell that `escape_formula` did not change is its own text."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
