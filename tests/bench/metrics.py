"""Measure how long the metrics take on 5,000 images, beside the COCO toolkit, and CIDEr-D on cached references.

CLIPCAP_SHARED=... python tests/bench/metrics.py        # COCO val2017, the first human captions against the others

Each figure is the median of several runs after one that is not counted. The toolkit's time is that of whole calls, with
the start of its process; a single metric is the difference to a call that only tokenises. Needs the extra `metrics`.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from clipcap.data.metrics import METRICS, CiderReferences, Metric, tokenize_all
from clipcap.data.metrics.toolkit import toolkit_scores

RUNS, TOOLKIT_RUNS = 7, 3


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """Time a call several times, after once that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print a row for each step: the seconds of ours and of the toolkit, and how many times faster ours is."""
    folder = Path(os.environ["CLIPCAP_SHARED"]) / "data" / "annotations"
    results = json.loads((folder / "human_val2017_results.json").read_text())
    texts = json.loads((folder / "human_val2017_references.json").read_text())
    raw = [result["caption"] for result in results]
    raw_references = [texts[str(result["image_id"])] for result in results]

    def tokenize_both() -> tuple[list[str], list[list[str]]]:
        tokens = iter(tokenize_all(text for some in raw_references for text in some))
        return tokenize_all(raw), [list(islice(tokens, len(some))) for some in raw_references]

    def toolkit(*names: str) -> float:
        return median_seconds(partial(toolkit_scores, raw, raw_references, names), TOOLKIT_RUNS)

    def prepare_and_score(metric: Metric) -> object:
        return metric(references)(captions)

    def row(name: str, ours: float, toolkits: float) -> float:
        print(f"| {name} | {ours:.2f} | {toolkits:.2f} | {toolkits / ours:.1f} |", flush=True)
        return ours

    captions, references = tokenize_both()
    print(f"| {len(captions):,} images | ours, s | toolkit, s | ratio |\n|---|---|---|---|")
    start = toolkit()
    total = row("tokens (toolkit: with its start)", median_seconds(tokenize_both, RUNS), start)
    for name, metric in METRICS.items():
        ours = median_seconds(partial(prepare_and_score, metric), RUNS)
        total += row(name, ours, toolkit(name) - start)
    row("all of these", total, toolkit(*METRICS))
    print(f"| meteor | | {toolkit('meteor') - start:.2f} | |")
    cached = CiderReferences(references)
    images = [*range(len(captions))] * 2
    seconds = median_seconds(lambda: cached.score(captions * 2, images), RUNS)
    print(f"| CIDEr-D of {len(images):,} captions, cached references | {seconds:.2f} | | |")


if __name__ == "__main__":
    main()
