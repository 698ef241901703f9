"""Reads captions that a captioner wrote to a file: COCO's result format, or what clipcap-caption writes.

    [{"image_id": 391895, "caption": "A man rides a motorcycle."}]     COCO's result format
    [{"input": "img/dog.jpg", "caption": "A dog runs."}]               --json; --jsonl has an object on each line
    [{"input": "img/dog.jpg", "captions": ["A dog runs.", "A dog."]}]  with -n 2: the first of an image counts
    input,caption,error                                                --csv; with -n, the first row of an image counts
    {"391895": "A man rides a motorcycle."}                            captions by id, also as lists of one caption

An entry with an `error` and no caption is of an image that could not be read, and is left out.
A file with captions of several models names the model of each, and becomes one `Predictions` for each model.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcap.caption.evaluate.references import CACHES
from clipcap.data.command.progress import plural
from clipcap.data.csv_cells import unescape_formula
from clipcap.data.errors import SourceError, one_line
from clipcap.data.files import parse_json
from clipcap.data.readers.csv_rows import read_csv_rows
from clipcap.data.readers.images import identifier, read_text
from clipcap.data.readers.tables import IMAGE_COLUMNS
from clipcap.data.remote import is_url
from clipcap.data.remote.file import fetched
from clipcap.data.remote.folder import without_secrets

logger = logging.getLogger(__name__)

_IMAGES = ("image_id", "input", "id", *IMAGE_COLUMNS)
_FORMATS = '[{"image_id": 1, "caption": "..."}], or what clipcap-caption writes as JSON, JSON lines or CSV'


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The captions of one captioner.

    Attributes:
        path: the file, or its URL without secrets.
        model: the model as the file names it, if it names several; else None.
        captions: one for each image, by its id or name as it stands in the file.
    """

    path: str | Path
    model: str | None
    captions: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a file; `where` says which one, for errors."""

    where: str
    image: str
    model: str | None
    caption: str
    number: int


def read_predictions(path: str | Path) -> list[Predictions]:
    """Read the captions in a file, of one captioner or of several.

    Args:
        path: the file, or as text its URL. Its content decides the format: a JSON array, JSON lines, or a CSV with a
            header.

    Raises:
        SourceError: the file cannot be read, is of no such format, holds no captions, or has an image twice.
    """
    if is_url(path):
        shown = without_secrets(path)
        with fetched(path) as file:
            return [replace(one, path=shown) for one in _read_file(file, shown)]
    path = Path(path)
    if path.is_dir():
        raise SourceError(f"{path} is a folder; give a file of captions: {_FORMATS}")
    if not os.path.exists(path):  # noqa: PTH110  # no name is an error
        raise SourceError(f"{path} does not exist; give a file of captions: {_FORMATS}")
    if path.suffix.lower() in CACHES:
        raise SourceError(f"{path} is a cache, whose captions are references; give a file of captions: {_FORMATS}")
    return _read_file(path, str(path))


def _read_file(path: Path, name: str) -> list[Predictions]:
    """Read a file; messages that are no errors call it by a name."""
    text = read_text(path)
    start = text.lstrip()[:1]
    if not start:
        raise SourceError(f"{path} is empty; give a file of captions: {_FORMATS}")
    read = _read_array if start == "[" else _read_objects if start == "{" else _read_csv
    by_model: dict[str | None, dict[str, _Entry]] = {}
    more = 0
    for entry in read(path, text):
        entries = by_model.setdefault(entry.model, {})
        before = entries.get(entry.image)
        if before is None:
            entries[entry.image] = entry
        elif read is _read_csv and entry.number == before.number + 1:  # the next caption of the same image
            entries[entry.image] = _Entry(before.where, before.image, before.model, before.caption, entry.number)
            more += 1
        else:
            raise SourceError(
                f"{entry.where} captions image {entry.image}, which has a caption in {before.where} already; "
                "leave one of them out"
            )
    if not by_model:
        raise SourceError(f"{path} holds no captions; give a file of captions: {_FORMATS}")
    if more:
        logger.info(f"{name}: the first caption of each image counts; {plural(more, 'more caption')} left out")
    several = len(by_model) > 1
    return [
        Predictions(
            path=path,
            model=str(model) if several else None,
            captions={image: entry.caption for image, entry in entries.items()},
        )
        for model, entries in by_model.items()
    ]


def _read_array(path: Path, text: str) -> Iterator[_Entry]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise SourceError(f"{path} is not JSON ({one_line(error)}); give a whole file: {_FORMATS}") from error
    for number, value in enumerate(content, 1):
        if not _is_failure(value):
            yield _entry(f"{path} entry {number:,}", value, number)


def _read_objects(path: Path, text: str) -> Iterator[_Entry]:
    """Read a file that begins with an object: JSON lines, or a single object of captions by the ids of images."""
    try:
        content = parse_json(text)
    except ValueError:  # more than one object, or a broken line, which is named then
        return _read_lines(path, text)
    return _read_lines(path, text) if set(_IMAGES) & set(content) else _read_mapping(path, content)


def _read_mapping(path: Path, content: dict[str, Any]) -> Iterator[_Entry]:
    for number, (image, value) in enumerate(content.items(), 1):
        captions = value if isinstance(value, list) else [value]
        if len(captions) != 1 or not isinstance(captions[0], str):
            raise SourceError(f"{path} has {value!r:.60} for image {image:.60}, not one caption; expected {_FORMATS}")
        yield _Entry(f"{path} entry {number:,}", image, None, captions[0], number)


def _read_lines(path: Path, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number:,}"
        try:
            value = parse_json(line)
        except ValueError as error:
            raise SourceError(f"{where} is not JSON ({one_line(error)}); expected {_FORMATS}") from error
        if not _is_failure(value):
            yield _entry(where, value, number)


def _read_csv(path: Path, text: str) -> Iterator[_Entry]:
    rows = read_csv_rows(path, text.split("\n"), ",")
    header = next(rows)
    columns = [name.strip() for name in header.fields]
    if len(columns) < 2:
        raise SourceError(f"{path} holds no captions ({text[:40]!r} ...); expected {_FORMATS}")
    for number, row in enumerate(rows):
        where = f"{path} line {row.number:,}"
        if len(row.fields) != len(columns):
            fact = f"{where} has {plural(len(row.fields), 'field')}, and the header has {len(columns)}"
            raise SourceError(f"{fact}; put quotes around a caption with commas")
        value = dict(zip(columns, map(unescape_formula, row.fields), strict=True))
        if not _is_failure(value):
            yield _entry(where, value, number)


def _is_failure(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.get("error")) and not (value.get("caption") or value.get("captions"))


def _entry(where: str, value: Any, number: int) -> _Entry:
    """Read one object, or one row of a table."""
    if not isinstance(value, dict):
        raise SourceError(f"{where} is {value!r:.60}, not an object; expected {_FORMATS}")
    key = next((name for name in _IMAGES if name in value), None)
    captions = value.get("captions", value.get("caption"))
    if key is None or not {"captions", "caption"} & set(value):
        what = f"no {'caption' if key is not None else 'image_id or input'}"
        raise SourceError(f"{where} has {what} but {', '.join(value)[:80] or 'nothing'}; expected {_FORMATS}")
    caption = captions[0] if isinstance(captions, list) and captions else captions
    if not isinstance(caption, str):
        raise SourceError(f"{where} has the caption {captions!r:.60}, which is not text; write a caption as a string")
    try:
        image = identifier(value[key]).strip()
    except TypeError as error:
        raise SourceError(f"{where} has an image without a name: {one_line(error)}") from error
    model = value.get("model")
    return _Entry(where, image, None if model is None else str(model), caption, number)
