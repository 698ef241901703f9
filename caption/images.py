"""Pictures with their captions written under them, as files."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clipcap.data.errors import ClipCapError
from clipcap.precompute.images import open_image

_NARROWEST = 320  # pixels; a smaller picture is set into a strip of this width


def with_caption(picture: Image.Image, captions: list[str]) -> Image.Image:
    """The picture over a white strip that holds the captions, a paragraph each; in RGB."""
    width = max(picture.width, _NARROWEST)
    size = max(14, width // 28)
    font = ImageFont.load_default(size)
    letters = max(8, int(width * 0.94 / font.getlength("abcdefghijklmnop ") * 17))
    text = "\n".join(textwrap.fill(caption, letters) for caption in captions)
    margin = size // 2
    _, top, _, bottom = ImageDraw.Draw(picture).multiline_textbbox((0, 0), text, font=font, spacing=margin)
    strip = int(bottom - top) + 3 * margin
    sheet = Image.new("RGB", (width, picture.height + strip), "white")
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((margin, picture.height + margin), text, fill=(20, 20, 24), font=font, spacing=margin)
    return sheet


class PictureFolder:
    """A folder of captioned pictures.

    Args:
        folder: is made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()

    def save(self, path: Path, captions: list[str]) -> Path:
        """Write one picture as a JPEG, under its own name; a second of that name gets a number.

        Raises:
            ClipCapError: it cannot be written.
            ImageError: the picture can no longer be read.
        """
        name, number = path.stem, 1
        while name in self._taken:
            number += 1
            name = f"{path.stem}-{number}"
        self._taken.add(name)
        file = self.folder / f"{name}.jpg"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with_caption(open_image(path), captions).save(file, quality=92)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ClipCapError(f"{file} cannot be written ({reason}); give another --save-pictures") from error
        return file
