"""How captions are written: one small class a format.

Each writes as captions come, so that thousands need no memory.
"""

import csv
import json
from typing import Protocol, TextIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText


class Writer(Protocol):
    """Writes results to a text stream."""

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        """One input and its captions, best first; of which model, where there are several."""

    def close(self) -> None:
        """What comes after the last."""


class Text:
    """`name: caption`, a line each; for a single picture the captions alone.

    Args:
        stream: where to.
        bare: leave the names out.
    """

    def __init__(self, stream: TextIO, bare: bool) -> None:
        self.stream, self.bare = stream, bare

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        name = f"{name} [{model}]" if model else name
        for caption in captions:
            self.stream.write((caption if self.bare else f"{name}: {caption}") + "\n")

    def close(self) -> None:
        pass


class Table:
    """Two columns as wide as the terminal, long texts folded; each row is drawn when it comes.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._first = True

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        name = f"{name} [{model}]" if model else name
        row = RichTable(box=None, expand=True, show_header=self._first, padding=(0, 2, 0, 0))
        row.add_column("input", ratio=2, overflow="fold", style="dim")
        row.add_column("caption", ratio=3, overflow="fold")
        for i, caption in enumerate(captions):
            row.add_row(RichText("" if i else name), RichText(caption))
        self._console.print(row)
        self._first = False

    def close(self) -> None:
        pass


class JsonLines:
    """An object a line: `input` and `caption`, or `captions` where several were asked for.

    Args:
        stream: where to.
        several: whether `-n` is above 1.
    """

    def __init__(self, stream: TextIO, several: bool) -> None:
        self.stream, self.several = stream, several

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        self.stream.write(self.object(name, captions, model) + "\n")

    def object(self, name: str, captions: list[str], model: str) -> str:
        """The JSON of one input."""
        result: dict[str, object] = {"input": name, **({"model": model} if model else {})}
        result |= {"captions": captions} if self.several else {"caption": captions[0]}
        return json.dumps(result, ensure_ascii=False)

    def close(self) -> None:
        pass


class Json(JsonLines):
    """One array of the same objects."""

    def __init__(self, stream: TextIO, several: bool) -> None:
        super().__init__(stream, several)
        self._separator = "["

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        self.stream.write(f"{self._separator}\n{self.object(name, captions, model)}")
        self._separator = ","

    def close(self) -> None:
        self.stream.write("[]\n" if self._separator == "[" else "\n]\n")


class Csv:
    """A table: `input,caption`, a row a caption; with several models `image,model,caption`.

    Args:
        stream: where to.
        models: whether there are several.
    """

    def __init__(self, stream: TextIO, models: bool = False) -> None:
        self._rows = csv.writer(stream, lineterminator="\n")
        self._rows.writerow(["image", "model", "caption"] if models else ["input", "caption"])

    def write(self, name: str, captions: list[str], model: str = "") -> None:
        self._rows.writerows([name, *([model] if model else []), caption] for caption in captions)

    def close(self) -> None:
        pass
