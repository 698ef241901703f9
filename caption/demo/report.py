"""What the demo shows: images with their captions, and the share of captions that is right, attribute by attribute."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from clipcap.data.command.printable import printable
from clipcap.data.demo.judge import ATTRIBUTES, judge
from clipcap.data.demo.scenes import Scene
from clipcap.precompute.images import open_image

if TYPE_CHECKING:
    from rich.text import Text

# An image's file, its caption, and whether the whole caption is right.
Shown = tuple[Path, str, bool]

_COLUMNS = 4
_SIDE = 288
_TEXT_HEIGHT = 84
_MARGIN = 20


@dataclass(frozen=True)
class Trial:
    """Captions of scenes whose truth is known.

    Attributes:
        name: heading of the trial.
        scenes: what the images show.
        captions: of the images, in the same order.
    """

    name: str
    scenes: list[Scene]
    captions: list[str]

    @cached_property
    def verdicts(self) -> list[dict[str, bool]]:
        """For each caption, which attributes are right."""
        return [judge(caption, scene) for caption, scene in zip(self.captions, self.scenes, strict=True)]

    @property
    def right(self) -> list[bool]:
        """For each caption, whether every attribute is right."""
        return [all(verdict.values()) for verdict in self.verdicts]

    @property
    def percent_right(self) -> float:
        """Share of captions that are right in every attribute, in percent."""
        return 100 * sum(self.right) / len(self.right)

    def percent_of(self, attribute: str) -> float:
        """Share of captions that are right in one attribute, in percent."""
        return 100 * sum(verdict[attribute] for verdict in self.verdicts) / len(self.verdicts)


def print_table(trials: Sequence[Trial]) -> None:
    """Print a table on stdout: a row for each attribute, a column for each trial."""
    print("\n" + "right, %".ljust(12) + "".join(trial.name.rjust(12) for trial in trials))
    for attribute in ATTRIBUTES:
        print(attribute.ljust(12) + "".join(f"{trial.percent_of(attribute):12.1f}" for trial in trials))
    print("everything".ljust(12) + "".join(f"{trial.percent_right:12.1f}" for trial in trials) + "\n", flush=True)


def save_sheet(shown: Sequence[Shown], file: Path) -> None:
    """Write a contact sheet: each image above its caption, wrong captions in red."""
    rows = -(-len(shown) // _COLUMNS)
    cell = (_SIDE + _MARGIN, _SIDE + _TEXT_HEIGHT + _MARGIN)
    sheet = Image.new("RGB", (_MARGIN + _COLUMNS * cell[0], _MARGIN + rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(17)
    for number, (path, caption, right) in enumerate(shown):
        x = _MARGIN + number % _COLUMNS * cell[0]
        y = _MARGIN + number // _COLUMNS * cell[1]
        sheet.paste(open_image(path).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, y))
        text = textwrap.fill(caption, 36, max_lines=4)
        draw.multiline_text((x, y + _SIDE + 8), text, fill=(30, 30, 34) if right else (190, 30, 30), font=font)
    sheet.save(file)


def show(shown: Sequence[Shown]) -> None:
    """Print each image's caption; in a terminal also the image, drawn with half-block characters."""
    if not sys.stdout.isatty():
        for path, caption, right in shown:
            print(printable(f"{path}: {caption}", sys.stdout) + ("" if right else "  [wrong]"))
        return
    from rich.columns import Columns
    from rich.console import Console, Group
    from rich.text import Text

    cells = []
    for path, caption, right in shown:
        text = Text(printable(caption) + "\n", style="" if right else "red")
        text.truncate(10_000)
        cells.append(Group(_blocks(path), text))
    Console().print("\n", Columns(cells, width=28, padding=(0, 2)), sep="")


def _blocks(path: Path, width: int = 28) -> "Text":
    """Draw an image with `width` characters a line, each of which shows two pixels: its upper and its lower half."""
    from rich.style import Style
    from rich.text import Text

    pixels: Any = open_image(path).resize((width, width), Image.Resampling.BOX).load()
    text = Text()
    for y in range(0, width, 2):
        for x in range(width):
            upper, lower = (pixels[x, y + half] for half in (0, 1))
            text.append("▀", Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower)))
        text.append("\n")
    return text
