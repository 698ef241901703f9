"""Measure the time per shard to open, read and verify a cache: one of COCO's size, and one of many small shards.

python tests/bench/open_cache.py
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.cache.shard import ShardTables, write_shard

REPEATS = 5
TEXT = "A man riding a wave on top of a surfboard."


def fingerprint() -> Fingerprint:
    """Return a fingerprint. Its values do not matter here."""
    names = dict.fromkeys(Fingerprint.__dataclass_fields__, "x")
    numbers = {"width": 512, "batch_size": 128, "shard_size": 4096, "split_seed": None, "normalized": False}
    return Fingerprint.from_json(json.dumps({**names, **numbers, "preprocess": {}}))


def make(folder: Path, shards: int, images: int) -> Path:
    """Write a cache of random embeddings with five captions of 13 tokens for each image, and return its index."""
    generator = np.random.default_rng(0)
    recipe = fingerprint()
    entries = []
    for number in range(shards):
        tables = ShardTables(
            embedding=generator.standard_normal((images, 512)).astype(np.float16),
            id=[str(i) for i in range(images)],
            path=[f"train2017/{i:012d}.jpg" for i in range(images)],
            split=np.zeros(images, dtype=np.uint8),
            first_caption=np.arange(images + 1) * 5,
            text=[TEXT] * (5 * images),
            first_token=np.arange(5 * images + 1) * 13,
            token=generator.integers(0, 50257, 65 * images).astype(np.uint16),
            failure_path=[],
            failure_reason=[],
        )
        path = folder / f"cache-{number:05d}.h5"
        content = write_shard(path, tables, recipe.to_json(), number)
        images_, captions, tokens = tables.counts
        entries.append(ShardEntry(path=path, images=images_, captions=captions, tokens=tokens, content=content))
    write_index(folder / "cache.h5", recipe, entries)
    return folder / "cache.h5"


def median(action: Callable[[], object]) -> float:
    """Return the median seconds of several calls, after one that is not counted."""
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def read(cache: Cache) -> int:
    """Read all tables, one shard at a time, and return the number of images."""
    return sum(len(tables.id) for tables in cache.tables())


def verify(cache: Cache) -> int:
    """Verify every shard, and return the number of shards."""
    return sum(1 for _ in cache.verify())


def main() -> None:
    """Print a row for each size of cache."""
    for shards, images in ((28, 4096), (2000, 2)):
        with tempfile.TemporaryDirectory() as folder:
            index = make(Path(folder), shards, images)
            cache = Cache.open(index)
            times = {
                "open": median(partial(Cache.open, index)),
                "read": median(partial(read, cache)),
                "verify": median(partial(verify, cache)),
            }
            row = ", ".join(f"{name} {1000 * taken / shards:.2f} ms a shard" for name, taken in times.items())
            print(f"{shards:,} shards of {images:,} images: {row}; to open all {times['open']:.2f} s")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
