"""Writes an evaluation as report.html: one file that opens offline, without JavaScript, on phones and large screens.

    Evaluation --tables, charts, contact sheet, runs, cache--> plain values --template.html, escaped--> report.html

The page loads nothing from elsewhere, and its policy forbids browsers to. Whatever comes from captions, names and
settings is escaped by the template engine, or by ElementTree in charts. The page takes about 1 MB with the thumbnails
of 36 photographs, however many images were evaluated.
"""

import datetime
import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.caption.evaluate.base import Evaluation
from clipcap.data.metrics.published import KnownSplit, published_for
from clipcap.data.records import storable

if TYPE_CHECKING:
    from markupsafe import Markup

logger = logging.getLogger(__name__)

SHOWN_IDS = 5  # ids without a partner that are named


def write_report(
    evaluation: Evaluation,
    file: Path,
    *,
    decoding: Mapping[str, Any] | None = None,
    date: datetime.date | None = None,
    seed: int = 0,
) -> None:
    """Write the report of an evaluation, whole or not at all. An older file is replaced.

    Args:
        evaluation: with at least one captioner.
        file: the HTML file.
        decoding: the options that were given for decoding; empty for the default ones, None where they are not known.
        date: printed in the report. Default: today. The same input and date make the same bytes.
        seed: of the random images.

    Raises:
        ClipCapError: the file cannot be written.
    """
    from clipcap.data.cache.atomic import write_file

    page = render(evaluation, decoding=decoding, date=date or datetime.date.today(), seed=seed)
    content = storable(page).encode()
    write_file(file, content)
    logger.info(f"{file} shows the figures, curves and images, {len(content) / 1e6:.1f} MB")


def render(evaluation: Evaluation, *, decoding: Mapping[str, Any] | None, date: datetime.date, seed: int) -> str:
    """Return the page. `write_report` describes the arguments."""
    import jinja2

    from clipcap.caption.evaluate.report.contact_sheet import contact_sheets
    from clipcap.caption.evaluate.report.runs import facts, read_runs
    from clipcap.caption.evaluate.report.tables import differences_table, figure_charts, figures_table, highlights
    from clipcap.caption.evaluate.report.tables import texts_table as texts
    from clipcap.data.version import program_version

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["foldable"] = _foldable
    template = environment.from_string(files(__package__).joinpath("template.html").read_text(encoding="utf-8"))
    first, card = evaluation.evaluated[0], _card(evaluation.cache)
    known = _known_split(evaluation, card)
    return template.render(
        names=[one.name for one in evaluation.evaluated],
        cache=evaluation.cache,
        split=evaluation.split,
        images=len(first.ids),
        references=sum(map(len, first.references)),
        date=date.isoformat(),
        version=program_version(),
        highlights=highlights(first),
        figures=figures_table(evaluation, known),
        charts=figure_charts(evaluation, known),
        differences=differences_table(evaluation),
        known=known,
        texts=texts(evaluation),
        runs=read_runs(evaluation.evaluated),
        sheets=contact_sheets(evaluation.evaluated, seed),
        unmatched=_unmatched(evaluation),
        decoding=None if decoding is None else facts(decoding),
        card=card,
        fingerprint=facts(card["fingerprint"]) if "fingerprint" in card else [],
    )


def _foldable(name: object) -> "Markup":
    """Allow a line to end after each slash of a path."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(str(name).split("/"))


def _card(cache: Path | None) -> dict[str, Any]:
    """Describe the cache; empty if there is none, and with `problem` if it can no longer be read."""
    from clipcap.caption.inspect.describe import inspect
    from clipcap.data.errors import ClipCapError

    if cache is None:
        return {}
    try:
        return inspect(cache)
    except ClipCapError as error:
        return {"problem": str(error)}


def _known_split(evaluation: Evaluation, card: dict[str, Any]) -> KnownSplit | None:
    first = evaluation.evaluated[0]
    return published_for(
        first.ids,
        split=evaluation.split,
        source_format=card.get("fingerprint", {}).get("source_format"),
        references=map(len, first.references),
    )


def _unmatched(evaluation: Evaluation) -> list[tuple[str, str, int, list[str]]]:
    """Return (captioner, what, count, the first ids) of all ids without a partner."""
    return [
        (one.name, what.replace("_", " "), len(ids), ids[:SHOWN_IDS])
        for one in evaluation.evaluated
        for what, ids in one.unmatched.items()
        if ids
    ]
