"""Writes an evaluation as a table, as JSON or as CSV, to stdout or to a file.

A file is replaced only if it holds what this program wrote. A new format is its function and its line in `FORMATS`.
"""

import io
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from clipcap.caption.evaluate.base import Evaluated, Evaluation
from clipcap.data.cache.atomic import write_file
from clipcap.data.command.printable import printable_json
from clipcap.data.csv_cells import write_csv_row
from clipcap.data.errors import UsageError
from clipcap.data.files import open_file, parse_json, read_text

MAX_BYTES = 1 << 32  # of an evaluation of some million images
_KEYS = {"intervals", "images", "text", "baseline", "differences", "unmatched"}


def write_evaluation(evaluation: Evaluation, form: str, output: Path | None) -> None:
    """Write an evaluation in a format of `FORMATS`, to a file or to stdout.

    Raises:
        ClipCapError: the file cannot be written. No part of it is left behind.
    """
    if output is None:
        FORMATS[form](evaluation, sys.stdout)
        return
    stream = io.StringIO()
    FORMATS[form](evaluation, stream)
    write_file(output, stream.getvalue().encode("utf-8", "backslashreplace"))


def check_outputs(output: Path | None, report: Path | None, inputs: Iterable[Path | None]) -> None:
    """Check before the work that the files of an evaluation may be written.

    Args:
        output: the file of the figures; None for stdout.
        report: the page, if one is wanted.
        inputs: that must not be replaced.

    Raises:
        UsageError: the folder of one does not exist, or it is an input, a file of another kind, or both are one file.
    """
    existing = [path for path in inputs if path is not None and path.exists()]
    for name, file, is_ours in (("output", output, _is_ours), ("report", report, _is_page)):
        if file is None:
            continue
        if not file.resolve().parent.is_dir():
            raise UsageError(f"the folder of {file} does not exist; create it, or give another `{name}`")
        if file.exists() and any(path.samefile(file) for path in existing):
            raise UsageError(f"`{name}` {file} is an input; give another name")
        if file.is_dir() or (file.is_file() and file.stat().st_size and not is_ours(file)):
            raise UsageError(f"{file} exists and this program did not write it; give another `{name}`, or move it away")
    if output is not None and report is not None and output.resolve() == report.resolve():
        raise UsageError(f"`output` and `report` are both {output}; give two names")


def write_json(evaluation: Evaluation, stream: TextIO) -> None:
    """Write one object, or with several captioners an object by name of such objects."""
    objects = {one.name: _object(one, evaluation) for one in evaluation.evaluated}
    content = next(iter(objects.values())) if len(objects) == 1 else objects
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
    stream.write(printable_json(text) + "\n")


def write_csv(evaluation: Evaluation, stream: TextIO) -> None:
    """Write a row for each image: id, caption and figures; with several captioners, `model` is the first column."""
    several = len(evaluation.evaluated) > 1
    names = list(evaluation.evaluated[0].scores)
    write_csv_row(stream, [*(["model"] if several else []), "id", "caption", *names])
    for one in evaluation.evaluated:
        figures = [one.scores[name].images.tolist() for name in names]
        for identifier, caption, *values in zip(one.ids, one.captions, *figures, strict=True):
            write_csv_row(stream, [*([one.name] if several else []), identifier, caption, *map(_known, values)])


def _write_table(evaluation: Evaluation, stream: TextIO) -> None:
    from clipcap.caption.evaluate.table import write_table

    write_table(evaluation, stream)


FORMATS: dict[str, Callable[[Evaluation, TextIO], None]] = {
    "text": _write_table,
    "json": write_json,
    "csv": write_csv,
}


def _object(one: Evaluated, evaluation: Evaluation) -> dict[str, Any]:
    """Return the JSON object of a captioner; its differences are its figures minus those of the first one."""
    differences: dict[str, dict[str, Any]] = {}
    for found in evaluation.differences:
        if found.first == one.name:
            differences.setdefault(found.second, {})[found.metric] = {
                "value": _known(found.value),
                "interval": _known_interval(found.interval),
                "clear": found.is_clear,
            }
    return {
        **_figures(one),
        "split": evaluation.split,
        "baseline": {baseline.name: _figures(baseline) for baseline in evaluation.baselines},
        "differences": differences,
        "unmatched": one.unmatched,
    }


def _figures(one: Evaluated) -> dict[str, Any]:
    return {
        **{name: _known(score.corpus) for name, score in one.scores.items()},
        "intervals": {name: _known_interval(interval) for name, interval in one.intervals.items()},
        "images": len(one.ids),
        "text": one.text,
    }


def _known(figure: float) -> float | None:
    """Return a figure, or None for NaN, which JSON does not have: SPICE is NaN where the toolkit's parser fails."""
    return figure if math.isfinite(figure) else None


def _known_interval(interval: tuple[float, float]) -> list[float] | None:
    return list(interval) if all(map(math.isfinite, interval)) else None


def _is_page(file: Path) -> bool:
    """Return whether a file begins as a page of HTML, as ours do."""
    try:
        with open_file(file) as stream:
            return stream.read(64).lstrip().lower().startswith(b"<!doctype html")
    except OSError:
        return False


def _is_ours(file: Path) -> bool:
    """Return whether a file holds an evaluation in one of the formats."""
    try:
        text = read_text(file, limit=MAX_BYTES)
    except (OSError, ValueError):
        return False
    first = text.partition("\n")[0]
    if first.startswith(("id,caption,Bleu_1", "model,id,caption,Bleu_1")) or "95 % interval over samples" in first:
        return True
    try:
        content = parse_json(text)
    except ValueError:
        return False
    objects = [content] if isinstance(content, dict) and "intervals" in content else content
    objects = list(objects.values()) if isinstance(objects, dict) else objects
    return isinstance(objects, list) and bool(objects) and all(isinstance(o, dict) and set(o) >= _KEYS for o in objects)
