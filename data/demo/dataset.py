"""Writing demo scenes to disk: a COCO folder with five captions a picture and its splits, or a folder of pictures."""

import io
import json
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from clipcap.data.cache.atomic import write_file
from clipcap.data.demo.drawing import draw_picture
from clipcap.data.demo.scenes import Scene, draw_scene, generator
from clipcap.data.demo.wording import write_captions
from clipcap.data.errors import ClipCapError

# The embedded models were trained on scenes of other seeds.
SEED = 1
NEW_PAIRS_SEED = 2
_HELD_OUT_EVERY = 18  # of 9,000 scenes, 500


def held_out(images: int) -> list[int]:
    """Numbers of the scenes that a dataset of so many keeps out of training."""
    return list(range(_HELD_OUT_EVERY - 1, images, _HELD_OUT_EVERY))


def make_scene(number: int, *, seed: int = SEED, new_pairs: bool = False) -> Scene:
    """The scene of a number: the same in every order and on every day."""
    return draw_scene(generator(seed, number), new_pairs=new_pairs)


def make_sample(
    number: int, *, seed: int = SEED, new_pairs: bool = False
) -> tuple[Scene, tuple[str, ...], Image.Image]:
    """Scene, captions and picture of a number."""
    chance = generator(seed, number)
    scene = draw_scene(chance, new_pairs=new_pairs)
    return scene, write_captions(scene, chance), draw_picture(scene, chance)


def write_dataset(folder: Path, images: int, advance: Callable[[], None] = lambda: None) -> None:
    """Write scenes 0 to `images` as COCO lays out its own: annotations/, train2017/, val2017/.

    Args:
        folder: made where it is missing.
        images: pictures in all; every eighteenth is held out, as `val`.
        advance: called after each picture.

    Raises:
        ClipCapError: a file cannot be written.
    """
    out = held_out(images)
    splits = {"train": [number for number in range(images) if number not in set(out)], "val": out}
    _make_folder(folder / "annotations")
    for split, numbers in splits.items():
        captions = write_pictures(folder / f"{split}2017", numbers, advance=advance)
        content = {
            "info": {"description": "clipcap demo scenes"},
            "images": [{"id": number, "file_name": file_name(number)} for number in numbers],
            "annotations": [
                {"id": 5 * number + i, "image_id": number, "caption": caption}
                for number, some in zip(numbers, captions, strict=True)
                for i, caption in enumerate(some)
            ],
        }
        write_file(folder / "annotations" / f"captions_{split}2017.json", json.dumps(content, indent=1).encode())


def write_pictures(
    folder: Path,
    numbers: Sequence[int],
    *,
    seed: int = SEED,
    new_pairs: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[tuple[str, ...]]:
    """Write the pictures of these scenes into a folder.

    Returns:
        The captions of each.

    Raises:
        ClipCapError: a file cannot be written.
    """
    _make_folder(folder)
    write = partial(_write_picture, folder, seed, new_pairs)
    with ProcessPoolExecutor(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as workers:
        captions = []
        try:
            for some in workers.map(write, numbers, chunksize=16):
                captions.append(some)
                advance()
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    return captions


def _write_picture(folder: Path, seed: int, new_pairs: bool, number: int) -> tuple[str, ...]:
    """Write a scene's picture, unless it is there; its captions."""
    _, captions, picture = make_sample(number, seed=seed, new_pairs=new_pairs)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    path = folder / file_name(number)
    try:
        if not path.is_file() or path.read_bytes() != stream.getvalue():
            path.write_bytes(stream.getvalue())
    except OSError as error:
        raise ClipCapError(f"{path} cannot be written ({error.strerror}); mend that and run it again") from error
    return captions


def file_name(number: int) -> str:
    """The name of a scene's picture, as COCO names its own."""
    return f"{number:012d}.jpg"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClipCapError(f"{folder} cannot be made ({error.strerror}); give another folder") from error
