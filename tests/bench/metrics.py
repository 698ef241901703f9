"""Measure how long the metrics take: 5,000 images with tokenisation, and CIDEr-D of 10,000 captions.

CLIPCAP_SHARED=... python tests/bench/metrics.py        # COCO val2017, the first human captions against the others
"""

import json
import os
import time
from pathlib import Path

from clipcap.data.metrics import METRICS, CiderReferences, tokenize_all


def main() -> None:
    """Print a row for each step: its name and its seconds."""
    folder = Path(os.environ["CLIPCAP_SHARED"]) / "data" / "annotations"
    results = json.loads((folder / "human_val2017_results.json").read_text())
    texts = json.loads((folder / "human_val2017_references.json").read_text())
    begin = last = time.perf_counter()
    captions = tokenize_all(result["caption"] for result in results)
    references = [tokenize_all(texts[str(result["image_id"])]) for result in results]
    print(f"| tokenise | {time.perf_counter() - last:.2f} |")
    for name, metric in METRICS.items():
        last = time.perf_counter()
        metric(captions, references)
        print(f"| {name} | {time.perf_counter() - last:.2f} |")
    print(f"| all of it | {time.perf_counter() - begin:.2f} |")
    cached = CiderReferences(references)
    last = time.perf_counter()
    cached.score(captions * 2, [*range(len(captions))] * 2)
    print(f"| CIDEr-D of {2 * len(captions):,} captions, cached references | {time.perf_counter() - last:.2f} |")


if __name__ == "__main__":
    main()
