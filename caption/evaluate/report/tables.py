"""The tables of a report: figures of all captioners beside the published ones, their differences, and their texts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from clipcap.caption.evaluate.base import Evaluated, Evaluation
from clipcap.caption.evaluate.report.charts import Dot, dot_chart
from clipcap.data.metrics.published import KnownSplit

# The order of the columns, and what people call the figures. A phone shows the first one or two.
LABELS = {
    "CIDEr": "CIDEr", "Bleu_4": "BLEU-4", "METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "SPICE": "SPICE",
    "CLIPScore": "CLIPScore", "RefCLIPScore": "RefCLIPScore", "Bleu_1": "BLEU-1", "Bleu_2": "BLEU-2",
    "Bleu_3": "BLEU-3",
}  # fmt: skip
MAIN = ("CIDEr", "Bleu_4", "METEOR", "ROUGE_L", "SPICE", "CLIPScore")  # those that have charts
MISSING = "–"  # noqa: RUF001 - the sign for an empty cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure as it is written, its interval, and whether it is marked as ahead."""

    figure: str
    interval: str = ""
    ahead: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of figures; `source` and `note` belong to published ones."""

    name: str
    cells: list[Cell]
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in groups, under one head: pairs of a group's title and its rows."""

    columns: list[str]
    groups: list[tuple[str, list[Row]]]


def label(metric: str) -> str:
    """Return what people call a metric."""
    return LABELS.get(metric, metric)


def times_100(figure: float) -> str:
    """Write a figure as papers print it; one that is not a number, as SPICE may be, is missing."""
    return f"{100 * figure:.2f}" if math.isfinite(figure) else MISSING


def interval_text(interval: tuple[float, float]) -> str:
    """Write an interval of a figure; empty if it is not of numbers."""
    low, high = interval
    if not math.isfinite(low + high):
        return ""
    return f"{times_100(low)} to {times_100(high)}"


def figures_table(evaluation: Evaluation, known: KnownSplit | None) -> Table:
    """Make the table of all figures: captioners, baselines, and the published figures of the split."""
    published = known.published if known else []
    metrics = _ordered(chain(*(one.scores for one in _measured(evaluation)), *(row.figures for row in published)))
    groups = [
        (title, [Row(name=one.name, cells=[_cell(evaluation, one, metric) for metric in metrics]) for one in some])
        for title, some in (("Captioners", evaluation.evaluated), ("Baselines", evaluation.baselines))
        if some
    ]
    if published and known:
        rows = [
            Row(
                name=row.system,
                cells=[Cell(figure=times_100(row.figures[m]) if m in row.figures else MISSING) for m in metrics],
                source=row.source,
                note=row.note,
            )
            for row in published
        ]
        groups.append((f"Published on {known.title}", rows))
    return Table(columns=[label(metric) for metric in metrics], groups=groups)


def differences_table(evaluation: Evaluation) -> Table:
    """Make the table of differences: a row for each pair of captioners, a column for each metric."""
    metrics = _ordered(difference.metric for difference in evaluation.differences)
    by_second: dict[str, dict[str, dict[str, Cell]]] = {}
    for difference in evaluation.differences:
        low, high = difference.interval
        cell = Cell(
            figure=_signed(difference.value),
            interval=f"{_signed(low)} to {_signed(high)}",
            ahead=difference.is_clear,
        )
        by_second.setdefault(difference.second, {}).setdefault(difference.first, {})[difference.metric] = cell
    groups = [
        (
            f"Compared with {second}",
            [
                Row(name=first, cells=[cells.get(metric, Cell(figure=MISSING)) for metric in metrics])
                for first, cells in by_first.items()
            ],
        )
        for second, by_first in by_second.items()
    ]
    return Table(columns=[label(metric) for metric in metrics], groups=groups)


def texts_table(evaluation: Evaluation) -> Table:
    """Make the table of what the captions are like, metrics aside."""
    columns = ["Distinct captions", "Vocabulary", "Mean length", "In the training set"]
    groups = [
        (title, [Row(name=one.name, cells=_text_cells(one)) for one in some])
        for title, some in (("Captioners", evaluation.evaluated), ("Baselines", evaluation.baselines))
        if some
    ]
    return Table(columns=columns, groups=groups)


def figure_charts(evaluation: Evaluation, known: KnownSplit | None) -> list[tuple[str, Markup]]:
    """Draw the main figures of all captioners with their intervals, a chart for each metric."""
    charts = []
    names = {name for one in evaluation.evaluated for name in one.scores}
    for metric in (name for name in MAIN if name in names):
        dots = [
            Dot(
                name=one.name,
                value=100 * one.scores[metric].corpus,
                interval=_percent(one.intervals.get(metric)),
                text=times_100(one.scores[metric].corpus),
                colour=index,
            )
            for index, one in enumerate(_measured(evaluation))
            if _is_known(one, metric)
        ]
        dots += [
            Dot(
                name=row.system,
                value=100 * row.figures[metric],
                interval=None,
                text=times_100(row.figures[metric]),
                colour=None,
            )
            for row in (known.published if known else [])
            if metric in row.figures
        ]
        if dots:
            charts.append((label(metric), dot_chart(label(metric), dots)))
    return charts


def highlights(evaluated: Evaluated) -> list[tuple[str, Cell]]:
    """Return the main figures of one captioner: (label, cell)."""
    shown = [metric for metric in MAIN if _is_known(evaluated, metric)]
    return [(label(metric), _figure(evaluated, metric, ahead=False)) for metric in shown]


def _is_known(one: Evaluated, metric: str) -> bool:
    return metric in one.scores and math.isfinite(one.scores[metric].corpus)


def _measured(evaluation: Evaluation) -> list[Evaluated]:
    return [*evaluation.evaluated, *evaluation.baselines]


def _ordered(names: Iterable[str]) -> list[str]:
    """Return each metric once: the known ones in their order, then the others."""
    found = list(dict.fromkeys(names))
    return [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]


def _cell(evaluation: Evaluation, one: Evaluated, metric: str) -> Cell:
    if metric not in one.scores:
        return Cell(figure=MISSING)
    return _figure(one, metric, ahead=_is_ahead(evaluation, one, metric))


def _figure(one: Evaluated, metric: str, *, ahead: bool) -> Cell:
    found = one.intervals.get(metric)
    text = interval_text(found) if found else ""
    return Cell(figure=times_100(one.scores[metric].corpus), interval=text, ahead=ahead)


def _is_ahead(evaluation: Evaluation, one: Evaluated, metric: str) -> bool:
    """Return whether a captioner is clearly ahead of the first one, or, if it is the first one, of all others."""
    others = [other for other in evaluation.differences if other.metric == metric]
    to_it = [difference for difference in others if difference.second == one.name]
    if to_it:
        return all(difference.is_clear and difference.value < 0 for difference in to_it)
    return any(other.first == one.name and other.is_clear and other.value > 0 for other in others)


def _signed(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}" if math.isfinite(difference) else MISSING  # -0.0 + 0.0 is 0.0


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return (100 * interval[0], 100 * interval[1]) if interval else None


def _text_cells(one: Evaluated) -> list[Cell]:
    distinct, vocabulary, length, share = (
        one.text.get(name) for name in ("distinct_captions", "vocabulary", "mean_length", "in_training")
    )
    part = f"{distinct / len(one.captions):.0%} of {len(one.captions):,}" if distinct and one.captions else ""
    return [
        Cell(figure=MISSING if distinct is None else f"{distinct:,}", interval=part),
        Cell(figure=MISSING if vocabulary is None else f"{vocabulary:,}", interval="words"),
        Cell(figure=MISSING if length is None else f"{length:.1f}", interval="tokens"),
        Cell(figure=MISSING if share is None else f"{share:.1%}", interval="of the captions"),
    ]
