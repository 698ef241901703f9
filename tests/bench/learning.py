"""Measure whether packing hurts learning: the validation loss against captions seen and against seconds.

CLIPCAP_SHARED=... python tests/bench/learning.py OUTPUT.png

The data are the images of Flickr8k, as embeddings of a frozen MobileNetV2, and their captions. A small GPT-2 and an MLP
mapper are trained from scratch by each loop of tests/bench/arms.py, ours with both samplings, with three seeds and the
same learning-rate schedule. One run follows the other. The clock stops during validation, which is in fp32 for all.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ARMS = ("published", "modern", "ours, --sampling image", "ours, --sampling caption")
SEEDS = (0, 1, 2)
WIDTH, LAYERS, PREFIX = 128, 4, 10


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the plot; the figures go beside it as JSON")
    parser.add_argument("--images", type=int, default=2000, help="of Flickr8k's 6,000 for training")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--points", type=int, default=10, help="validations of a run")
    return parser.parse_args()


def make_cache(folder: Path) -> Path:
    """Make the cache of the embeddings, and return the path of its index."""
    from clipcap.precompute.cli import main

    shared = Path(os.environ["CLIPCAP_SHARED"]) / "data"
    index = folder / "flickr8k.h5"
    source = shared / "embeddings/flickr8k_mobilenet_v2.pkl"
    sys.argv = ["clipcap-precompute", str(source), "-o", str(index), "--tokenizer", str(shared / "gpt2")]
    try:
        main()
    except SystemExit as done:
        assert not done.code, done.code
    return index


def load(index: Path, images: int, device: Any) -> tuple[Any, Any]:
    """Load the captions to train on, and those of 250 other images, after Flickr8k's lists."""
    from dataclasses import replace

    import numpy as np

    from clipcap.data.cache.index import Cache
    from clipcap.train.corpus.captions import load_corpora

    everything = load_corpora(Cache.open(index), 60, device=device)["train"]
    lists = Path(os.environ["CLIPCAP_SHARED"]) / "data/flickr8k-splits"
    names = {split: set((lists / f"Flickr_8k.{split}Images.txt").read_text().split()) for split in ("train", "dev")}

    def some(split: str, count: int) -> Any:
        rows = [i for i, path in enumerate(everything.path) if Path(path).name in names[split]][:count]
        kept = np.flatnonzero(np.isin(everything.image, rows))
        columns = {name: getattr(everything, name)[kept] for name in ("image", "first_token", "length")}
        return replace(everything, **columns, text=[everything.text[i] for i in kept.tolist()])

    return some("train", images), some("dev", 250)


def run(arm: str, seed: int, train: Any, val: Any, options: argparse.Namespace, device: Any) -> list[list[float]]:
    """Train once, and return the captions seen, the seconds and the validation loss at each point."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from arms import ours, plain
    from clipcap.data.pretrained.device import has_bf16
    from clipcap.train.mappers import mapper_config
    from clipcap.train.mappers.module import Mapper
    from clipcap.train.model.captioning import ClipCapModel, train_mode
    from clipcap.train.packed.loss import PackedLoss
    from clipcap.train.settings import TrainSettings, lr_factor

    torch.manual_seed(seed)
    config = GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=128)
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=1280, lm_width=WIDTH, prefix_length=PREFIX))
    model = ClipCapModel(mapper, GPT2LMHeadModel(config)).to(device)
    precision = "bf16" if arm != "published" and has_bf16(device) else "fp32"
    sampling = "caption" if arm.endswith("caption") else "image"
    settings = TrainSettings(
        batch_size=options.batch_size, precision=precision, sampling=sampling, seed=seed, lr=options.lr
    )
    total = len(train) // options.batch_size * options.epochs

    def rate(number: int) -> float:
        return float(options.lr * lr_factor(number, total // 20, total))

    if arm.startswith("ours"):
        step = ours(model, train, settings, device, rate)
    else:
        step = plain(model, train, settings, device, rate, published=arm == "published")
    loss, tokens = PackedLoss(model), int(val.length.sum())
    points, seen, seconds = [], 0, 0.0
    for number in range(total):
        train_mode(model)
        begin = time.perf_counter()
        seen += step(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - begin
        if (number + 1) * options.points // total > number * options.points // total:
            model.eval()
            with torch.no_grad():
                batches = np.array_split(np.arange(len(val)), 8)
                mean = sum(loss(val.packed(captions, PREFIX)).item() for captions in batches) / tokens
            points.append([seen, seconds, mean])
    return points


def draw(runs: dict[str, list[list[list[float]]]], output: Path) -> None:
    """Draw the loss against captions seen and against seconds: each seed in a faint colour, their mean on top."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, margin = 620, 420, 60
    sheet = Image.new("RGB", (2 * width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    colours = dict(zip(ARMS, ((70, 70, 80), (200, 80, 40), (46, 110, 180), (60, 140, 80)), strict=True))
    points = [point for some in runs.values() for run in some for point in run]
    low, high = min(point[2] for point in points), max(point[2] for point in points)
    for panel, (column, label) in enumerate(((0, "captions seen"), (1, "seconds of training"))):
        right = max(point[column] for point in points)

        def at(point: Any, panel: int = panel, column: int = column, right: float = right) -> tuple[float, float]:
            x = panel * width + margin + point[column] / right * (width - 1.5 * margin)
            return x, margin / 2 + (high - point[2]) / (high - low) * (height - 1.5 * margin)

        for part in range(6):
            loss, place = low + part / 5 * (high - low), part / 5 * right
            x, y = at((0, 0, loss))
            pen.line((x, y, at((right, right, loss))[0], y), fill=(225, 225, 230))
            pen.text((x - 8, y), f"{loss:.2f}", fill="black", font=font, anchor="rm")
            x, y = at((place, place, low))
            pen.text((x, y + 8), f"{place:,.0f}", fill="black", font=font, anchor="ma")
        pen.text((panel * width + width / 2, height - 18), label, fill="black", font=font, anchor="mm")
        for row, (arm, some) in enumerate(runs.items()):
            faint = tuple((component + 2 * 255) // 3 for component in colours[arm])
            for run in some:
                pen.line([at(point) for point in run], fill=faint, width=1)
            mean = [[statistics.mean(values) for values in zip(*same, strict=True)] for same in zip(*some, strict=True)]
            pen.line([at(point) for point in mean], fill=colours[arm], width=3)
            pen.text((panel * width + width - 230, 40 + 18 * row), arm, fill=colours[arm], font=font)
    sheet.save(output)


def main() -> None:
    """Train with every loop and seed, print a table, and draw the plot."""
    options = arguments()
    from clipcap.train.engine.allocator import keep_freed_memory

    keep_freed_memory()

    import torch

    from clipcap.data.pretrained.device import choose_device

    device = choose_device(options.device)
    cache = make_cache(options.output.parent)
    train, val = load(cache, options.images, device)
    on_cpu, _ = load(cache, options.images, torch.device("cpu"))
    runs: dict[str, list[list[list[float]]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm in ARMS:
            points = run(arm, seed, train if arm.startswith("ours") else on_cpu, val, options, device)
            runs[arm].append(points)
            print(f"seed {seed}, {arm}: {points[-1][2]:.4f} after {points[-1][1]:.1f} s", file=sys.stderr, flush=True)
            options.output.with_suffix(".json").write_text(json.dumps(runs))
    report(runs)
    draw(runs, options.output)


def report(runs: dict[str, list[list[list[float]]]]) -> None:
    """Print a row for each loop: the final loss, the seconds, and the time to reach the published loop's loss."""
    reached = statistics.mean(points[-1][2] for points in runs["published"])
    print(f"| | validation loss at the end: mean (least to most of the seeds) | seconds | until {reached:.3f} |")
    print("|---|---|---|---|")
    for arm, some in runs.items():
        last = [points[-1][2] for points in some]
        seconds = statistics.mean(points[-1][1] for points in some)
        until = [next((point[1] for point in points if point[2] <= reached), None) for points in some]
        times = [moment for moment in until if moment is not None]
        when = f"{statistics.mean(times):.0f} s ({len(times)} of {len(some)} seeds)" if times else "not reached"
        row = f"{statistics.mean(last):.4f} ({min(last):.4f} to {max(last):.4f})"
        print(f"| {arm} | {row} | {seconds:.1f} | {when} |")


if __name__ == "__main__":
    main()
