"""Measure memory and start of both stages on a dataset of a million images: reading it, encoding it, training on it.

python tests/bench/million.py [IMAGES] [--folder FOLDER]

The script makes a dataset of COCO's layout with five captions an image. Its image files are empty, since two things are
replaced in stage 1: each image is read as the same small JPEG, and the encoder returns random rows. All the rest of
`clipcap.precompute` is as it is. Three processes run one after the other:

    read        reads the dataset, draws its splits and hashes it: seconds and peak memory
    precompute  stage 1: peak memory after 10%, 50% and 100% of the images, which is flat
    train       opens the index, and trains with --stream (the demo's GPT-2) until the end of the first step

A million images take 5 GB of disk and, on two cores, half an hour. FOLDER keeps the dataset for the next time.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

WORDS = "a man riding on the top of surfboard dog cat runs grass with two people standing next to street bus"
CAPTION_WORDS = 9
SHARES = (0.1, 0.5, 1.0)


def make_dataset(folder: Path, images: int) -> None:
    """Write the annotations, and empty files as images."""
    rng, words = random.Random(0), WORDS.split()
    names = [f"{number:012d}.jpg" for number in range(images)]
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in names:
        (folder / "train2017" / name).touch()
    with (folder / "annotations/captions_train2017.json").open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for number, name in enumerate(names):
            entry = {"license": 3, "file_name": name, "height": 480, "width": 640, "id": number}
            file.write((", " if number else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for number in range(5 * images):
            caption = f"A {' '.join(rng.choices(words, k=CAPTION_WORDS))}."
            entry = {"image_id": number * 7919 % images, "id": number, "caption": caption}
            file.write((", " if number else "") + json.dumps(entry))
        file.write("]}")


def gigabytes() -> tuple[float, float]:
    """Return the peak of the resident memory of this process, and what it is now."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, now / 1e9


def report(what: str, start: float) -> None:
    """Print the memory, and the time since a start."""
    peak, now = gigabytes()
    print(f"| {what} | {time.perf_counter() - start:.1f} s | {peak:.2f} GB | {now:.2f} GB |", flush=True)


def read(folder: Path) -> None:
    """Read the dataset as stage 1 does."""
    from clipcap.precompute.dataset import understand

    start = time.perf_counter()
    source = understand(folder)
    report(f"read {len(source.records):,} images with splits", start)
    source.sha256()
    report("and hash them", start)


def precompute(folder: Path, images: int) -> None:
    """Run stage 1 with small images and an encoder that does not look at them."""
    import torch
    from PIL import Image

    import clipcap
    from clipcap.data.image_store import FolderStore
    from clipcap.precompute import PrecomputeSettings
    from clipcap.precompute.encoders.base import Encoder

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "JPEG")
    image = buffer.getvalue()
    reads = count(1)
    marks = {max(1, round(share * images)): share for share in SHARES}
    start = time.perf_counter()

    def read_same(self: FolderStore, path: str) -> bytes:
        number = next(reads)
        if number in marks:
            report(f"stage 1, {marks[number]:.0%} of the images read", start)
        return image

    whole = Encoder.start
    widths: list[int] = []

    def start_random(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        if not widths:
            widths.append(whole(self, pixels[:1]).shape[-1])
        return torch.randn(len(pixels), widths[0])

    FolderStore.read = read_same  # type: ignore[method-assign]
    Encoder.start = start_random  # type: ignore[method-assign]
    settings = PrecomputeSettings(encoder="demo", tokenizer="demo", device="cpu")
    result = clipcap.precompute(folder, folder / "cache.h5", settings, overwrite=True)
    assert result.images == images
    report(f"stage 1, finished: {result.shards:,} shards", start)


def train(folder: Path) -> None:
    """Open the index, and train until the end of the first step."""
    import clipcap
    from clipcap.data.cache.index import Cache
    from clipcap.train import TrainSettings
    from clipcap.train.engine.step import Engine

    start = time.perf_counter()
    cache = Cache.open(folder / "cache.h5")
    report(f"open the index of {len(cache.shards):,} shards", start)
    step = Engine.step

    def stop(*given: Any, **options: Any) -> None:
        step(*given, **options).read()
        report("stage 2, start to the end of the first step", start)
        os._exit(0)

    Engine.step = stop  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as run:
        start = time.perf_counter()
        clipcap.train(folder / "cache.h5", run, TrainSettings(lm="demo", stream=True, device="cpu"), overwrite=True)


def main() -> None:
    """Make the dataset and run the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", choices=("read", "precompute", "train"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one == "precompute":
        precompute(options.folder, options.images)
    elif options.one:
        {"read": read, "train": train}[options.one](options.folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary) / "coco"
            if not folder.exists():
                make_dataset(folder, options.images)
            print("| | time | peak memory | memory |\n|---|---|---|---|", flush=True)
            for one in ("read", "precompute", "train"):
                command = [sys.executable, __file__, str(options.images), "--folder", str(folder), "--one", one]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
