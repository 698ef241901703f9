"""Measure the time from the start of `clipcap-train` to the end of its first step, on a cache of COCO's size.

CLIPCAP_SHARED=... python tests/bench/coco_start.py [--device cpu]

The script makes the cache (113,287 images with random embeddings, 566,747 captions of COCO's lengths) and a GPT-2 small
with random weights in a temporary folder. It then starts the command three times, and stops it after its first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from coco_captions import CAPTIONS, IMAGES, captions

SHARD = 4096
TEXT = "A man riding a wave on top of a surfboard."


def make_cache(folder: Path, tokenizer: Path) -> Path:
    """Write the cache, and return the path of its index."""
    from clipcap.data.cache.fingerprint import Fingerprint
    from clipcap.data.cache.index import ShardEntry, write_index
    from clipcap.data.cache.shard import ShardTables, write_shard
    from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256

    names = dict.fromkeys(Fingerprint.__dataclass_fields__, "x")
    names |= {"tokenizer": str(tokenizer), "tokenizer_sha256": tokenizer_sha256(load_tokenizer(str(tokenizer)))}
    numbers = {"width": 512, "batch_size": 128, "shard_size": SHARD, "split_seed": None, "normalized": False}
    recipe = Fingerprint.from_json(json.dumps({**names, **numbers, "preprocess": {}}))
    random = np.random.default_rng(0)
    lengths = [len(tokens) for some in captions() for tokens in some]
    per_image = np.full(IMAGES, CAPTIONS // IMAGES)
    per_image[: CAPTIONS - per_image.sum()] += 1
    entries = []
    for number, start in enumerate(range(0, IMAGES, SHARD)):
        count = per_image[start : start + SHARD]
        length = random.choice(lengths, count.sum())
        tables = ShardTables(
            embedding=random.standard_normal((len(count), 512)).astype(np.float16),
            id=[str(start + i) for i in range(len(count))],
            path=[f"train2017/{start + i:012d}.jpg" for i in range(len(count))],
            split=np.zeros(len(count), dtype=np.uint8),
            first_caption=np.concatenate([[0], np.cumsum(count)]),
            text=[TEXT] * int(count.sum()),
            first_token=np.concatenate([[0], np.cumsum(length)]),
            token=random.integers(0, 50257, int(length.sum())).astype(np.uint16),
            failure_path=[],
            failure_reason=[],
        )
        path = folder / f"coco-{number:05d}.h5"
        content = write_shard(path, tables, recipe.to_json(), number)
        images, made, tokens = tables.counts
        entries.append(ShardEntry(path=path, images=images, captions=made, tokens=tokens, content=content))
    write_index(folder / "coco.h5", recipe, entries)
    return folder / "coco.h5"


def make_lm(folder: Path) -> Path:
    """Save a GPT-2 small with random weights, as transformers saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    return folder


def one_step(arguments: list[str]) -> None:
    """Run clipcap-train in this process until its first step is done, and print the time."""
    from clipcap.train import cli
    from clipcap.train.engine.step import Engine

    step = Engine.step

    def stop(*given: object, **options: object) -> None:
        step(*given, **options).read()  # type: ignore[arg-type]
        print(f"first step {time.time()}", flush=True)
        os._exit(0)

    Engine.step = stop  # type: ignore[assignment, method-assign]
    sys.argv = ["clipcap-train", *arguments]
    cli.main()


def main() -> None:
    """Print the seconds that three starts take."""
    if sys.argv[1:2] == ["--one"]:
        one_step(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    tokenizer = Path(os.environ["CLIPCAP_SHARED"]) / "data/gpt2"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache, lm = make_cache(folder, tokenizer), make_lm(folder / "lm")
        size = sum(path.stat().st_size for path in folder.glob("*.h5"))
        print(f"{IMAGES:,} images, {CAPTIONS:,} captions, {size / 1e6:.0f} MB")
        for number in range(3):
            begin = time.time()
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(cache), "--lm", str(lm), "-o", str(folder / str(number)),
                 "--device", options.device],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            print(f"start to the end of the first step: {float(done.stdout.split()[-1]) - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
