"""Images with their captions written under them, as JPEG files that the program recognises as its own."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from PIL import Image, ImageDraw, ImageFont
from PIL.ExifTags import Base

from clipcap.data.cache.atomic import open_whole
from clipcap.data.errors import ClipCapError, UsageError
from clipcap.data.image_store import read_image_file
from clipcap.data.lock import hold_lock
from clipcap.precompute.images import open_image, opened

SOFTWARE = "clipcap"  # EXIF's name of the program that wrote an image; programs that edit one put their own name there
_NARROWEST = 320  # pixels; a narrower image is set into a strip of this width


def with_caption(image: Image.Image, captions: Sequence[str]) -> Image.Image:
    """Draw captions on a white strip under an image, a paragraph each.

    Args:
        image: of any size, in RGB.
        captions: any number of texts of any length; long ones are folded.

    Returns:
        The image above the strip, in RGB, at least 320 pixels wide.
    """
    width = max(image.width, _NARROWEST)
    size = max(14, width // 28)
    font = ImageFont.load_default(size)
    letters = max(8, int(width * 0.94 / font.getlength("abcdefghijklmnop ") * 17))
    text = "\n".join(textwrap.fill(caption, letters) for caption in captions)
    margin = size // 2
    _, top, _, bottom = ImageDraw.Draw(image).multiline_textbbox((0, 0), text, font=font, spacing=margin)
    strip = int(bottom - top) + 3 * margin
    sheet = Image.new("RGB", (width, image.height + strip), "white")
    sheet.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((margin, image.height + margin), text, fill=(20, 20, 24), font=font, spacing=margin)
    return sheet


def is_captioned_image(path: Path) -> bool:
    """Whether `ImageFolder` wrote this file: a JPEG, no symbolic link, with the program's name in EXIF's `Software`."""
    if path.suffix != ".jpg" or path.is_symlink():
        return False
    try:
        with opened(read_image_file(path)) as image:
            return image.format == "JPEG" and image.getexif().get(Base.Software) == SOFTWARE
    except Exception:  # whatever the file is, the program did not write it
        return False


@contextmanager
def open_folders(
    folder: Path | None, models: Sequence[Path], images: Sequence[Path]
) -> "Iterator[dict[Path, ImageFolder]]":
    """Open the folder of each model's images: `folder` for a single model, else one below it for each.

    Args:
        folder: None opens none.
        models: the checkpoints.
        images: that will be saved.

    Raises:
        UsageError, ClipCapError: see `ImageFolder` and its `locked`.
    """
    folders: dict[Path, ImageFolder] = {}
    if folder is not None:
        for model in models:
            own = folder / _shortest_name(model, models) if len(models) > 1 else folder
            folders[model] = ImageFolder(own, images)
    with ExitStack() as stack:
        for image_folder in folders.values():
            stack.enter_context(image_folder.locked())
        yield folders


def _shortest_name(model: Path, models: Sequence[Path]) -> str:
    """The shortest end of a model's path that no other model has, such as `best`, or `a-best` beside `b/best`."""
    parts = model.relative_to(model.anchor).parts  # without `/` or `C:`, which no name may hold
    ends = ["-".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    others = [other for other in models if other != model]
    taken = {"-".join(other.parts[-count:]) for other in others for count in range(1, len(other.parts) + 1)}
    return next((end for end in ends if end not in taken), ends[-1])


class ImageFolder:
    """A folder for images with their captions: `dog.png` becomes `dog.jpg` here, a second `dog.png` `dog-2.jpg`.

        folder = ImageFolder(Path("captioned"), [Path("dog.png")])
        with folder.locked():
            folder.save(Path("dog.png"), ["A dog runs on grass."])

    Args:
        folder: created when it is locked, with the folders above it.
        images: all images that will be saved, in order.

    Raises:
        UsageError: one of the files that would be written exists and is not a captioned image, or is an input.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self.folder = folder
        self._files: dict[Path, Path] = {}
        taken: set[str] = set()
        for image in images:
            if image not in self._files:
                name, number = image.stem, 1
                while name in taken:
                    number += 1
                    name = f"{image.stem}-{number}"
                taken.add(name)
                self._files[image] = folder / f"{name}.jpg"
        existing = [file for file in self._files.values() if os.path.lexists(file)]
        inputs = {image.resolve() for image in images} if existing else set()
        for file in existing:
            self._check(file, is_input=file.resolve() in inputs)

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Create the folder and keep other processes from saving into it while inside.

        Raises:
            UsageError: another process saves into the folder.
            ClipCapError: the folder cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ClipCapError(f"{self.folder} cannot be created ({reason}); give another `save_images`") from error
        with hold_lock(self.folder / ".clipcap-caption.lock", str(self.folder)):
            yield self

    def save(self, image: Path, captions: Sequence[str]) -> Path:
        """Save an image with its captions. The file is written whole, or not at all.

        Args:
            image: one of those that the folder was built with.
            captions: its captions.

        Returns:
            The file, a JPEG.

        Raises:
            ClipCapError: it cannot be written.
            ImageError: the image can no longer be read.
        """
        file = self._files[image]
        sheet = with_caption(open_image(image), captions)
        exif = Image.Exif()
        exif[Base.Software] = SOFTWARE
        if os.path.lexists(file):
            self._check(file)
        with open_whole(file) as stream:
            sheet.save(stream, "JPEG", quality=92, exif=exif)
        return file

    def _check(self, file: Path, *, is_input: bool = False) -> None:
        if is_input:
            raise UsageError(f"{file} is an input and would be replaced; give another `save_images`")
        if not is_captioned_image(file):
            fact = f"{file} exists and is not an image that this program saved"
            raise UsageError(f"{fact}; give another `save_images`, or move the file away")
