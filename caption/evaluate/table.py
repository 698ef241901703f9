"""Draws an evaluation as a table for people: a row for each figure, a column for each captioner.

    5,000 images of split test; in brackets the 95 % interval over samples of the images

    figure              checkpoints/best         big/best                 difference                nearest image
    Bleu_4              0.281 [0.274, 0.288]     0.302 [0.295, 0.309]     +0.021* [+0.015, +0.027]  0.153 [0.148, 0.158]
    ...
    difference: to checkpoints/best, of the captioner in the column before it; * its interval leaves out zero

Figures have the scale of the COCO toolkit: BLEU and ROUGE-L end at 1, and CIDEr-D at 10.
"""

import io
import math
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipcap.caption.evaluate.base import FEWEST, Difference, Evaluated, Evaluation
from clipcap.data.command.printable import printable
from clipcap.data.command.progress import plural

WIDE = 10_000  # columns of a pipe, where nothing is folded
UNKNOWN = "not known"
GAP = 2  # columns between two columns of the table
INTRODUCTION = "in brackets the 95 % interval over samples of the images"
_TEXT = {
    "distinct_captions": "distinct captions",
    "vocabulary": "vocabulary",
    "mean_length": "tokens in a caption",
    "in_training": "in training set",
}


def write_table(evaluation: Evaluation, stream: TextIO) -> None:
    """Write the table: folded to the width of a terminal, or as wide as it is elsewhere.

    Args:
        evaluation: with at least one captioner.
        stream: a terminal, a pipe or a file.
    """
    terminal = stream.isatty()
    drawn = stream if terminal else io.StringIO()
    console = Console(file=drawn, highlight=False, emoji=False, width=None if terminal else WIDE)
    first = evaluation.evaluated[0]
    of_split = f" of split {printable(evaluation.split)}" if evaluation.split else ""
    console.print(f"{plural(len(first.ids), 'image')}{of_split}; {INTRODUCTION}\n", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold" if terminal else "")
    table.add_column("figure", style="cyan" if terminal else "")
    columns: list[list[str]] = []
    for captioner in evaluation.evaluated:
        columns.append(_add_column(table, captioner))
        if captioner is not first:
            table.add_column("difference")
            columns.append(_difference_column(captioner, first, evaluation.differences))
    columns += [_add_column(table, baseline, "dim" if terminal else "") for baseline in evaluation.baselines]
    names = [*first.scores, *(_TEXT[name] for name in first.text)]
    columns = [[printable(name) for name in names], *columns]
    if sum(map(_width, columns)) > console.width:  # intervals go below their figures
        columns = [[cell.replace(" [", "\n[") for cell in column] for column in columns]
    if sum(map(_width, columns)) <= console.width:  # long names are folded, and figures are not
        for column, cells in zip(table.columns, columns, strict=True):
            column.min_width = _width(cells) - GAP
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    if evaluation.differences:
        note = (
            f"difference: to {printable(first.name)}, of the captioner in the column before it; * its interval leaves "
            "out zero"
        )
        if len(first.ids) < FEWEST:
            note += f", which takes at least {FEWEST} images"
        console.print(f"\n{note}", markup=False)
    if not terminal:  # rich fills the lines of a table with spaces
        drawn.seek(0)
        stream.writelines(line.rstrip() + "\n" for line in drawn.read().splitlines())


def _width(cells: Sequence[str]) -> int:
    """Return the width of a column with the gap after it; a cell may have several lines."""
    return max(len(line) for cell in cells for line in cell.split("\n")) + GAP


def _add_column(table: Table, captioner: Evaluated, style: str = "") -> list[str]:
    """Add the header of a captioner, and return its cells."""
    table.add_column(Text(printable(captioner.name), overflow="fold"), style=style, overflow="fold")
    figures = [_figure(score.corpus, captioner.intervals[name]) for name, score in captioner.scores.items()]
    return figures + [_text_figure(name, value) for name, value in captioner.text.items()]


def _difference_column(captioner: Evaluated, first: Evaluated, differences: Sequence[Difference]) -> list[str]:
    """Return the cells with how far a captioner is ahead of the first one."""
    found = {one.metric: one for one in differences if (one.first, one.second) == (captioner.name, first.name)}
    shown = [found[name] for name in captioner.scores]
    cells = [_figure(one.value, one.interval, "+", "*" if one.is_clear else "") for one in shown]
    return cells + [""] * len(captioner.text)


def _figure(figure: float, interval: tuple[float, float], sign: str = "", mark: str = "") -> str:
    """Write a figure with its interval; `sign` is a plus where positive numbers shall have one."""
    if not math.isfinite(figure):  # SPICE is NaN where the toolkit's parser fails
        return UNKNOWN
    low, high = interval
    return f"{figure:{sign}.3f}{mark} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _text_figure(name: str, value: float | int | None) -> str:
    if value is None:
        return UNKNOWN
    if name == "in_training":
        return f"{value:.1%}"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
