"""Measure how many of the demo's captions are right, and how long they take, with each deterministic way to decode.

python tests/bench/decoding.py demo/        # the folder that clipcap-demo wrote
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from clipcap.caption import Captioner
from clipcap.caption.demo.report import Trial
from clipcap.data.cache.index import Cache
from clipcap.data.demo import dataset
from clipcap.data.records import SPLITS

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, --stop .": {"stop": "."},
    "sample, --top-k 1": {"decode": "sample", "top_k": 1},
    "beam, --beams 2": {"decode": "beam", "beams": 2},
    "beam, --beams 5": {"decode": "beam", "beams": 5},
    "beam, --beams 10": {"decode": "beam", "beams": 10},
    "beam, --beams 5, -n 5: the best": {"decode": "beam", "beams": 5, "n": 5},
    "greedy, --repetition-penalty 1.05": {"repetition_penalty": 1.05},
    "greedy, --repetition-penalty 1.2": {"repetition_penalty": 1.2},
}


def main() -> None:
    """Print a row for each way: the percentage of right captions, the captions that differ from greedy, the seconds."""
    folder = Path(sys.argv[1])
    cache = Cache.open(folder / "cache.h5")
    rows = np.concatenate([tables.embedding[tables.split == SPLITS.index("val")] for tables in cache.tables()])
    truth = [dataset.make_scene(number) for number in dataset.held_out(cache.images)]
    captioner = Captioner.from_checkpoint(folder / "checkpoints", device="cpu", precision="fp32")
    captioner(rows[:32])  # warms up
    greedy: list[str] = []
    for name, options in WAYS.items():
        begin = time.perf_counter()
        said = captioner(rows, **options)
        taken = time.perf_counter() - begin
        captions = [some if isinstance(some, str) else some[0] for some in said]
        greedy = greedy or captions
        others = sum(caption != first for caption, first in zip(captions, greedy, strict=True))
        print(f"| {name} | {Trial(name, truth, captions).percent_right:.1f} | {others} | {taken:.1f} |", flush=True)


if __name__ == "__main__":
    main()
