"""Measure how fast stage 2 trains: as ClipCap published it, with a modern plain loop, and with our engine.

python tests/bench/train.py [--mapper mlp|transformer] [--tune all|none] [--batch-size N ...] [--arms ARM ...]

All arms train the same model (GPT-2 small and the mapper, random weights) on COCO's captions, each in a process of its
own, one after the other. Each step is timed after a warm-up, and the median counts. "Useful" operations are those
that packed captions need. MFU is their rate divided by the rate of a large matrix product, measured in the same run.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from coco_captions import CAPTIONS, captions

WIDTH, EMBEDDING, LAYERS, VOCABULARY = 768, 512, 12, 50257
IMAGES = 2000  # in memory; the number does not change the time of a step


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mapper", default="mlp", choices=("mlp", "transformer"))
    parser.add_argument("--tune", default="all", choices=("all", "none"))
    parser.add_argument("--batch-size", type=int, nargs="+", default=[40])
    parser.add_argument("--arms", nargs="+", default=["published", "modern", "ours"])
    parser.add_argument("--precision", default="auto", help="precision of modern and ours; published uses fp32")
    parser.add_argument("--sampling", default="image", help="sampling of ours")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument(
        "--warmup", type=int, default=12, help="warm-up steps; published, whose batches have one shape, takes 2"
    )
    parser.add_argument("--memory-gb", type=float, default=0.0, help="limit of GPU memory; 0: none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_model(options: argparse.Namespace, device: Any) -> Any:
    """Make the mapper and GPT-2 small, with GPT-2's own dropout."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from clipcap.train.mappers import mapper_config
    from clipcap.train.mappers.module import Mapper
    from clipcap.train.model.captioning import ClipCapModel, train_mode
    from clipcap.train.model.tuning import tune

    torch.manual_seed(0)
    prefix = 10 if options.mapper == "mlp" else 40
    config = mapper_config(
        kind=options.mapper, embedding_width=EMBEDDING, lm_width=WIDTH, prefix_length=prefix, clip_length=prefix
    )
    model = ClipCapModel(Mapper(config), GPT2LMHeadModel(GPT2Config())).to(device)
    tune(model, options.tune)
    train_mode(model)
    return model


def corpus(device: Any) -> Any:
    """Make a corpus of images with random embeddings, and their captions."""
    import torch

    from clipcap.train.corpus.captions import Corpus

    class Embeddings:
        rows = torch.randn(IMAGES, EMBEDDING, generator=torch.Generator().manual_seed(0)).to(device)

        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, images: Any) -> torch.Tensor:
            return self.rows[torch.from_numpy(images).to(device)]

    images = captions()[:IMAGES]
    length = np.array([len(tokens) for some in images for tokens in some])
    return Corpus(
        embedding=Embeddings(),
        image=np.repeat(np.arange(IMAGES), [len(some) for some in images]),
        first_token=np.cumsum(length) - length,
        length=length,
        token=np.array([token for some in images for tokens in some for token in tokens]),
        path=[],
        text=[],
        cut=0,
    )


def run_arm(options: argparse.Namespace) -> None:
    """Time one arm at one batch size, in this process, and print a line of JSON."""
    if options.one == "ours":
        from clipcap.train.engine.allocator import keep_freed_memory

        keep_freed_memory()
    import torch
    import transformers  # noqa: F401

    from clipcap.data.pretrained.device import choose_device, has_bf16

    device = choose_device(options.device)
    if options.memory_gb:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(options.memory_gb * 1e9 / whole, device)
    precision = ("bf16" if has_bf16(device) else "fp32") if options.precision == "auto" else options.precision
    precision = "fp32" if options.one == "published" else precision
    from arms import ours, plain
    from clipcap.train.settings import TrainSettings

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.perf_counter()
    settings = TrainSettings(
        batch_size=options.batch_size[0], precision=precision, tune=options.tune, sampling=options.sampling
    )
    model, data = make_model(options, device), corpus(device if options.one == "ours" else torch.device("cpu"))
    if options.one == "ours":
        step = ours(model, data, settings, device, lambda number: 2e-5)
    else:
        step = plain(model, data, settings, device, lambda number: 2e-5, published=options.one == "published")

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    step(0)
    wait()
    first = time.perf_counter() - begin
    warmup = 2 if options.one == "published" else options.warmup
    for number in range(1, warmup):
        step(number)
    times, count = [], 0
    for number in range(warmup, warmup + options.repeats):
        wait()
        start = time.perf_counter()
        count += step(number)
        wait()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    rate = count / len(times) / statistics.median(times)
    print(json.dumps({"rate": rate, "peak": peak, "precision": precision, "first": first, "times": times}))


def useful_operations(options: argparse.Namespace) -> float:
    """Return the operations that one packed caption needs, forward and backward, as the mean over all."""
    images = captions()[:IMAGES]
    count = sum(map(len, images))
    prefix = 10 if options.mapper == "mlp" else 40
    # Rows of tokens: captions of one image share their common beginnings; the last token of a caption is only a target.
    beginnings = [{tuple(tokens[:n]) for tokens in some for n in range(1, len(tokens))} for some in images]
    words = sum(map(len, beginnings))
    rows = words + prefix * len(images)
    seen = len(images) * prefix * (prefix + 1) / 2 + sum(prefix + len(one) for some in beginnings for one in some)
    if options.mapper == "mlp":
        mapper = len(images) * (EMBEDDING * prefix * WIDTH // 2 + (prefix * WIDTH) ** 2 // 2)
    else:
        positions = 2 * prefix * len(images)
        mapper = positions * 8 * 8 * WIDTH**2 + 8 * positions * 2 * (2 * prefix) * WIDTH
        mapper += len(images) * EMBEDDING * prefix * WIDTH
    products = rows * LAYERS * 12 * WIDTH**2 + (words + len(images)) * WIDTH * VOCABULARY + seen * LAYERS * 2 * WIDTH
    passes = (
        3 if options.tune == "all" else 2
    )  # forward, gradients of activations, and gradients of weights where GPT-2 trains
    return float(2 * (passes * products + 3 * mapper) / count)


def matrix_rate(options: argparse.Namespace) -> tuple[float, str]:
    """Return the operations per second of a large matrix product, in bf16 where possible, and the device's name."""
    import torch

    from clipcap.data.pretrained.device import choose_device, has_bf16

    device = choose_device(options.device)
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    size = 2048 if device.type == "cpu" else 8192
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        begin = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return 2 * size**3 / statistics.median(times[3:]), f"{name}, {str(dtype)[6:]}"


def _cpu_name() -> str:
    import torch

    features = [name for name, there in torch.cpu.get_capabilities().items() if there is True]
    wanted = [name for name in features if name.startswith(("amx", "avx512_bf16", "avx512_f", "avx2"))]
    return f"{os.cpu_count()} cores of {platform.machine()} with {' '.join(sorted(wanted))}"


def main() -> None:
    """Run all arms one after the other, and print a table."""
    options = arguments()
    if options.one:
        run_arm(options)
        return
    import torch
    import transformers

    peak, device = matrix_rate(options)
    print(f"{datetime.date.today()}, {device}: {peak / 1e12:.2f} TFLOP/s in a matrix product")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{options.mapper}, --tune {options.tune}, GPT-2 small, COCO's captions, sampling {options.sampling}\n")
    print("| arm | batch | precision | captions/s | real tokens/s | s a COCO epoch | MFU | peak memory | first step |")
    print("|---|---|---|---|---|---|---|---|---|")
    lengths = [len(tokens) for some in captions()[:IMAGES] for tokens in some]
    operations = useful_operations(options)
    best: dict[tuple[str, int], float] = {}
    for size in options.batch_size:
        for arm in options.arms:
            if arm == "published" and size != options.batch_size[0]:
                continue
            settings = ["--mapper", options.mapper, "--tune", options.tune, "--precision", options.precision]
            settings += ["--device", options.device, "--repeats", str(options.repeats), "--sampling", options.sampling]
            settings += ["--memory-gb", str(options.memory_gb)]
            settings += ["--warmup", str(options.warmup), "--batch-size", str(size), "--one", arm]
            done = subprocess.run(
                [sys.executable, __file__, *settings], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found = json.loads(done.splitlines()[-1])
            rate = best[arm, size] = found["rate"]
            print(
                f"| {arm} | {size} | {found['precision']} | {rate:.2f} | {rate * statistics.mean(lengths):.0f} | "
                f"{CAPTIONS / rate:,.0f} | {100 * rate * operations / peak:.1f}% | {found['peak'] / 1e9:.2f} GB | "
                f"{found['first']:.1f} s |",
                flush=True,
            )
    print()
    for (arm, size), rate in best.items():
        for (other, other_size), lower in best.items():
            if arm == "ours" and other != "ours" and (other_size == size or other == "published"):
                print(f"ours at {size} is {rate / lower:.2f} x {other} at {other_size}")


if __name__ == "__main__":
    main()
