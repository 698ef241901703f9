"""Writes demo scenes to disk: as a COCO folder with five captions per image, or as a folder of images."""

import io
import json
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from clipcap.data.cache.atomic import write_file
from clipcap.data.demo.drawing import draw_image
from clipcap.data.demo.scenes import Scene, draw_scene, generator
from clipcap.data.demo.wording import write_captions
from clipcap.data.errors import ClipCapError

# The embedded models were trained on scenes with another seed.
SEED = 1
NEW_PAIRS_SEED = 2
_HELD_OUT_EVERY = 18  # 500 of 9,000 scenes


def held_out(images: int) -> list[int]:
    """Return the numbers of the scenes that a dataset of this size holds out from training."""
    return list(range(_HELD_OUT_EVERY - 1, images, _HELD_OUT_EVERY))


def make_scene(number: int, *, seed: int = SEED, new_pairs: bool = False) -> Scene:
    """Return the scene with this number; it depends on the arguments alone."""
    return draw_scene(generator(seed, number), new_pairs=new_pairs)


def make_sample(
    number: int, *, seed: int = SEED, new_pairs: bool = False
) -> tuple[Scene, tuple[str, ...], Image.Image]:
    """Return the scene with this number, its captions and its image."""
    rng = generator(seed, number)
    scene = draw_scene(rng, new_pairs=new_pairs)
    return scene, write_captions(scene, rng), draw_image(scene, rng)


def write_dataset(folder: Path, images: int, advance: Callable[[], None] = lambda: None) -> None:
    """Write scenes 0 to `images` - 1 in the layout of COCO: annotations/, train2017/, val2017/.

    Args:
        folder: created if it does not exist.
        images: number of images, of which every eighteenth is held out as `val`.
        advance: called after each image.

    Raises:
        ClipCapError: a file cannot be written.
    """
    val = held_out(images)
    splits = {"train": [number for number in range(images) if number not in set(val)], "val": val}
    _make_folder(folder / "annotations")
    for split, numbers in splits.items():
        captions = write_images(folder / f"{split}2017", numbers, advance=advance)
        content = {
            "info": {"description": "clipcap demo scenes"},
            "images": [{"id": number, "file_name": file_name(number)} for number in numbers],
            "annotations": [
                {"id": 5 * number + i, "image_id": number, "caption": caption}
                for number, texts in zip(numbers, captions, strict=True)
                for i, caption in enumerate(texts)
            ],
        }
        write_file(folder / "annotations" / f"captions_{split}2017.json", json.dumps(content, indent=1).encode())


def write_images(
    folder: Path,
    numbers: Sequence[int],
    *,
    seed: int = SEED,
    new_pairs: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[tuple[str, ...]]:
    """Write the images of these scenes to a folder, in several processes.

    Args:
        folder: created if it does not exist.
        numbers: of the scenes.
        seed, new_pairs: as for `make_scene`.
        advance: called after each image.

    Returns:
        The captions of each scene.

    Raises:
        ClipCapError: a file cannot be written.
    """
    _make_folder(folder)
    write = partial(_write_image, folder, seed, new_pairs)
    # Ctrl-C reaches all processes of the group; the workers leave it to this one, which then ends them. They inherit
    # that from their start, except on Windows.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=signal.signal, initargs=ignore) as workers:
        captions = []
        try:
            before = signal.signal(*ignore)
            try:
                written = workers.map(write, numbers, chunksize=16)
            finally:
                signal.signal(signal.SIGINT, before)
            for texts in written:
                captions.append(texts)
                advance()
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    return captions


def _write_image(folder: Path, seed: int, new_pairs: bool, number: int) -> tuple[str, ...]:
    """Write the image of a scene, unless the file is there already, and return the scene's captions."""
    _, captions, image = make_sample(number, seed=seed, new_pairs=new_pairs)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    path = folder / file_name(number)
    try:
        if not path.is_file() or path.read_bytes() != stream.getvalue():
            path.write_bytes(stream.getvalue())
    except OSError as error:
        raise ClipCapError(f"{path} cannot be written ({error.strerror}); fix that and run it again") from error
    return captions


def file_name(number: int) -> str:
    """Return the file name of a scene's image, in the style of COCO."""
    return f"{number:012d}.jpg"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClipCapError(f"{folder} cannot be created ({error.strerror}); give another folder") from error
