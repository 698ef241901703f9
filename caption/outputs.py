"""The formats in which captions are written, one small class each.

A writer writes each result when it comes, so thousands of results need no memory. A new format is its class here and
its line in `FORMATS`.
"""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from clipcap.data.command.printable import printable, printable_json
from clipcap.data.csv_cells import write_csv_row
from clipcap.data.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the formats adapt to.

    Attributes:
        bare: the run has a single image and a single model, so its captions need no name.
        several_captions: each input has a list of captions.
        several_models: the results of several models follow each other, so each names its model.
        resumed: the stream holds the beginning of the output already.
    """

    bare: bool = False
    several_captions: bool = False
    several_models: bool = False
    resumed: bool = False


class Writer(ABC):
    """Writes results to a text stream.

    Args:
        stream: the output.
        layout: what the format adapts to.
    """

    def __init__(self, stream: TextIO, layout: Layout) -> None:
        self.stream, self.layout = stream, layout

    @abstractmethod
    def write(self, name: str, captions: Sequence[str], model: str) -> None:
        """Write the captions of one input, best first; `model` is written only if there are several."""

    def write_failure(self, name: str, reason: str, model: str) -> None:  # noqa: B027 (people are told on stderr)
        """Write why an input has no captions, in formats that programs read."""

    def close(self) -> None:  # noqa: B027 (most formats have nothing after the last result)
        """Write what comes after the last result."""

    @staticmethod
    @abstractmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        """Whether a file that is not empty was written in this format, and may be replaced.

        Args:
            lines: of the file, with their ends.
            names: returns the names of the inputs, for a format whose shape alone proves nothing.
        """

    def label(self, name: str, model: str) -> str:
        """The name of an input, with its model if there are several."""
        return f"{name} [{model}]" if self.layout.several_models else name


class Text(Writer):
    """`name: caption`, a line for each caption; the captions alone if the only input is an image."""

    def write(self, name: str, captions: Sequence[str], model: str) -> None:
        for caption in captions:
            line = caption if self.layout.bare else f"{self.label(name, model)}: {caption}"
            self.stream.write(printable(line, self.stream) + "\n")

    @staticmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        # Any text could stand in such a file. It is ours if each line begins with an input.
        known = {printable(name, io.StringIO()) for name in names()}
        return all(any(line[: found.start()] in known for found in re.finditer(r": | \[", line)) for line in lines)


class Table(Writer):
    """Two columns as wide as the terminal, with long texts folded."""

    def __init__(self, stream: TextIO, layout: Layout) -> None:
        super().__init__(stream, layout)
        self._console = Console(file=stream, highlight=False)
        self._header = not layout.resumed

    def write(self, name: str, captions: Sequence[str], model: str) -> None:
        row = RichTable(box=None, expand=True, show_header=self._header, padding=(0, 2, 0, 0))
        row.add_column("input", ratio=2, overflow="fold", style="dim")
        row.add_column("caption", ratio=3, overflow="fold")
        for i, caption in enumerate(captions):
            row.add_row(*(RichText(printable(cell)) for cell in ("" if i else self.label(name, model), caption)))
        self._console.print(row)
        self._header = False

    @staticmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        header = next(lines)
        # All lines are padded to the same width.
        return re.fullmatch(r"input {2,}caption *\n", header) is not None and all(
            len(line) == len(header) for line in lines
        )


class JsonLines(Writer):
    """A JSON object on each line: `input`, `model` if there are several, and `caption`, or `captions` if several.

    An input that could not be read has `error` in the place of its captions.
    """

    def write(self, name: str, captions: Sequence[str], model: str) -> None:
        content = {"captions": list(captions)} if self.layout.several_captions else {"caption": captions[0]}
        self.write_object(self._object(name, model, content))

    def write_failure(self, name: str, reason: str, model: str) -> None:
        self.write_object(self._object(name, model, {"error": reason}))

    def write_object(self, text: str) -> None:
        """Write the JSON of one input."""
        self.stream.write(text + "\n")

    def _object(self, name: str, model: str, content: dict[str, Any]) -> str:
        named = {"input": name, **({"model": model} if self.layout.several_models else {})}
        return printable_json(json.dumps(named | content, ensure_ascii=False))

    @staticmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        return all(line.endswith("\n") and _is_result(line) for line in lines)


class Json(JsonLines):
    """One JSON array of the same objects, an object on each line."""

    def __init__(self, stream: TextIO, layout: Layout) -> None:
        super().__init__(stream, layout)
        self._separator = "," if layout.resumed else "["

    def write_object(self, text: str) -> None:
        self.stream.write(f"{self._separator}\n{text}")
        self._separator = ","

    def close(self) -> None:
        self.stream.write("[]\n" if self._separator == "[" else "\n]\n")

    @staticmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        first = next(lines)
        if first != "[\n":
            return first == "[]\n" and next(lines, None) is None
        last = ""
        for line in lines:
            if last and not _is_result(last.removesuffix(",\n")):
                return False
            last = line
        return last == "]\n"


class Csv(Writer):
    """A table with the header `input,caption,error`, or `image,model,caption,error` with several models.

    There is a row for each caption, and one with `error` for an input that could not be read. No spreadsheet runs a
    cell as a formula (`data/csv_cells.py`).
    """

    _HEADERS = (["input", "caption", "error"], ["image", "model", "caption", "error"])

    def __init__(self, stream: TextIO, layout: Layout) -> None:
        super().__init__(stream, layout)
        if not layout.resumed:
            write_csv_row(stream, self._HEADERS[layout.several_models])

    def write(self, name: str, captions: Sequence[str], model: str) -> None:
        for caption in captions:
            write_csv_row(self.stream, [*self._named(name, model), caption, ""])

    def write_failure(self, name: str, reason: str, model: str) -> None:
        write_csv_row(self.stream, [*self._named(name, model), "", reason])

    def _named(self, name: str, model: str) -> list[str]:
        return [name, model] if self.layout.several_models else [name]

    @staticmethod
    def recognises(lines: Iterator[str], names: Callable[[], Iterable[str]]) -> bool:
        rows = csv.reader(lines)
        header = next(rows)
        try:
            known = [*Csv._HEADERS, *(columns[:-1] for columns in Csv._HEADERS)]  # version 0.1 had no `error`
            return header in known and all(len(row) == len(header) for row in rows)
        except csv.Error:
            return False


FORMATS: dict[str, type[Writer]] = {
    "text": Text,
    "table": Table,
    "json": Json,
    "jsonl": JsonLines,
    "csv": Csv,
}


def choose_format(asked: Sequence[str], output: Path | None) -> str:
    """Choose the format of an output: the one that was asked for, or that the file's ending names, or text.

    Args:
        asked: the names in `FORMATS` that were asked for.
        output: the file; None for stdout.

    Raises:
        UsageError: two formats were asked for, or another one than the file's ending names.
    """
    if len(asked) > 1:
        raise UsageError(f"`{asked[0]}` and `{asked[1]}` are two formats; give one")
    ending = output.suffix.lower().removeprefix(".") if output is not None else ""
    named = ending if ending in ("json", "jsonl", "csv") else None
    if asked and named not in (None, asked[0]):
        raise UsageError(f"`output` {output} ends with .{named}, and `{asked[0]}` is given; leave one of them out")
    return asked[0] if asked else named or "text"


def _is_result(line: str) -> bool:
    """Whether a line holds the JSON of one input as `JsonLines` writes it, and nothing more."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and [name for name in found if name != "model"] in (
        ["input", "caption"],
        ["input", "captions"],
        ["input", "error"],
    )
