"""What the demo shows: pictures with what was said of them, and how much of it is right, attribute by attribute."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from clipcap.data.demo.judge import ATTRIBUTES, judge
from clipcap.data.demo.scenes import Scene

if TYPE_CHECKING:
    from rich.text import Text

# A picture's file, its caption, and whether all of it is right.
Shown = tuple[Path, str, bool]

_COLUMNS = 4
_SIDE = 288
_TEXT_HEIGHT = 84
_MARGIN = 20


@dataclass(frozen=True)
class Trial:
    """Captions of scenes whose truth is known.

    Attributes:
        name: of the trial.
        scenes: what is in the pictures.
        captions: what was said of them, in the same order.
    """

    name: str
    scenes: list[Scene]
    captions: list[str]

    @cached_property
    def verdicts(self) -> list[dict[str, bool]]:
        """The judge's word on each caption."""
        return [judge(caption, scene) for caption, scene in zip(self.captions, self.scenes, strict=True)]

    @property
    def right(self) -> list[bool]:
        """Whether all of a caption is right."""
        return [all(verdict.values()) for verdict in self.verdicts]

    @property
    def percent_right(self) -> float:
        """Captions that are right in everything, in percent."""
        return 100 * sum(self.right) / len(self.right)

    def percent_of(self, attribute: str) -> float:
        """Captions that are right in one attribute, in percent."""
        return 100 * sum(verdict[attribute] for verdict in self.verdicts) / len(self.verdicts)


def print_table(trials: Sequence[Trial]) -> None:
    """A row an attribute, a column a trial, on stdout."""
    print("\n" + "right, %".ljust(12) + "".join(trial.name.rjust(12) for trial in trials))
    for attribute in ATTRIBUTES:
        print(attribute.ljust(12) + "".join(f"{trial.percent_of(attribute):12.1f}" for trial in trials))
    print("everything".ljust(12) + "".join(f"{trial.percent_right:12.1f}" for trial in trials) + "\n", flush=True)


def save_sheet(shown: Sequence[Shown], file: Path) -> None:
    """Write one picture of pictures, each over its caption; a wrong caption is red."""
    rows = -(-len(shown) // _COLUMNS)
    cell = (_SIDE + _MARGIN, _SIDE + _TEXT_HEIGHT + _MARGIN)
    sheet = Image.new("RGB", (_MARGIN + _COLUMNS * cell[0], _MARGIN + rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(17)
    for number, (path, caption, right) in enumerate(shown):
        x = _MARGIN + number % _COLUMNS * cell[0]
        y = _MARGIN + number // _COLUMNS * cell[1]
        with Image.open(path) as picture:
            sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, y))
        text = textwrap.fill(caption, 36, max_lines=4)
        draw.multiline_text((x, y + _SIDE + 8), text, fill=(30, 30, 34) if right else (190, 30, 30), font=font)
    sheet.save(file)


def show(shown: Sequence[Shown]) -> None:
    """Captions on stdout, a line a picture; in a terminal the pictures too, drawn with half-block characters."""
    if not sys.stdout.isatty():
        for path, caption, right in shown:
            print(f"{path}: {caption}" + ("" if right else "  [wrong]"))
        return
    from rich.columns import Columns
    from rich.console import Console, Group
    from rich.text import Text

    pictures = []
    for path, caption, right in shown:
        words = Text(caption + "\n", style="" if right else "red")
        words.truncate(10_000)
        pictures.append(Group(_blocks(path), words))
    Console().print("\n", Columns(pictures, width=28, padding=(0, 2)), sep="")


def _blocks(path: Path, width: int = 28) -> "Text":
    """A picture of `width` characters: each is an upper half over a lower half, two pixels."""
    from rich.style import Style
    from rich.text import Text

    with Image.open(path) as picture:
        pixels: Any = picture.convert("RGB").resize((width, width), Image.Resampling.BOX).load()
    text = Text()
    for y in range(0, width, 2):
        for x in range(width):
            upper, lower = (pixels[x, y + half] for half in (0, 1))
            text.append("▀", Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower)))
        text.append("\n")
    return text
