"""Measure how fast stage 1 encodes: as ClipCap does it, as a good user writes it, with ours, and what its limits are.

python tests/bench/precompute.py FOLDER [--images N] [--arms ARM ...] [--repeats N] [--device DEVICE]

FOLDER holds photographs of COCO's size, in any depth. All arms encode them with ViT-B-32 of random weights, in turns,
each in a process of its own. Models are loaded and warmed up before the time starts. Images a second:

    clipcap        a forward pass for each of five captions of an image, one image at a time, fp32
    user           open_clip's transform, a DataLoader with a worker a core, batches of 32; autocast to bf16 on a GPU
    ours-fp32      clipcap-precompute, with shards and index written
    ours-auto      the same with --precision auto
    load           our loading alone
    encode-fp32    our encoder alone, on pixels in memory
    encode-auto    the same with --precision auto

On a CPU, where loading and encoding share the cores, the limit of ours is 1 / (1 / load + 1 / encode), on a GPU the
lower of the two.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ARMS = ("clipcap", "user", "ours-fp32", "ours-auto", "load", "encode-fp32", "encode-auto")
NAME = "ViT-B-32"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def photographs(options: argparse.Namespace) -> list[Path]:
    """Return the images to encode; a folder with fewer gives some of them several times."""
    found: list[Path] = sorted(path for path in options.folder.rglob("*.jpg"))
    return [found[number % len(found)] for number in range(options.images)]


def time_clipcap(options: argparse.Namespace, device: Any) -> float:
    """ClipCap's parse_coco.py, but for COCO's API: it loops over captions."""
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(NAME, pretrained=str(options.weights), device=device)
    files = photographs(options)[:40]

    @torch.no_grad()
    def encode(file: Path) -> Any:
        return model.eval().encode_image(transform(Image.open(file).convert("RGB"))[None].to(device)).cpu()

    encode(files[0])
    start = time.perf_counter()
    for file in files:
        for _ in range(5):
            encode(file)
    return len(files) / (time.perf_counter() - start)


def time_user(options: argparse.Namespace, device: Any) -> float:
    """A DataLoader in front of open_clip."""
    import open_clip
    import torch
    from PIL import Image

    from clipcap.data.pretrained.device import autocast
    from clipcap.precompute.parallel import available_cores

    model, _, transform = open_clip.create_model_and_transforms(NAME, pretrained=str(options.weights), device=device)
    model.eval()
    files = photographs(options)

    class Images(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, number: int) -> torch.Tensor:
            pixels: torch.Tensor = transform(Image.open(files[number]).convert("RGB"))
            return pixels

    loader = torch.utils.data.DataLoader(
        Images(), batch_size=32, num_workers=available_cores(), pin_memory=device.type == "cuda"
    )
    precision = "bf16" if device.type == "cuda" else "fp32"
    with torch.inference_mode(), autocast(device, precision):
        model.encode_image(torch.zeros(32, 3, 224, 224, device=device))
        start = time.perf_counter()
        rows = [model.encode_image(batch.to(device, non_blocking=True)).cpu() for batch in loader]
    assert sum(map(len, rows)) == len(files)
    return len(files) / (time.perf_counter() - start)


def time_ours(options: argparse.Namespace, device: Any) -> float:
    """`encode_source`, or a part of it."""
    import torch

    from clipcap.data.cache.fingerprint import Fingerprint
    from clipcap.data.image_store import FolderStore
    from clipcap.data.pretrained.tokenizer import load_tokenizer
    from clipcap.data.records import Record, Source
    from clipcap.precompute.encoders.load import load_encoder
    from clipcap.precompute.loading import Item, Loader
    from clipcap.precompute.output import Output
    from clipcap.precompute.parallel import available_cores, choose_workers, map_in_order
    from clipcap.precompute.run import encode_source

    part, _, precision = options.one.partition("-")
    encoder = load_encoder(NAME, str(options.weights), device=device, precision=precision or "fp32")
    files, size, workers = photographs(options), encoder.batch_size, choose_workers()
    pixels = torch.zeros(size, *encoder.preprocess["size"], 3, dtype=torch.uint8)
    encoder.encode(pixels)
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    if part == "load":
        height, width = encoder.preprocess["size"]
        loader = Loader(FolderStore(Path("/")), encoder.transform, (height, width))
        begin = partial(torch.set_num_threads, 1)
        items = [[Item(str(file.resolve())) for file in batch] for batch in batches]
        start = time.perf_counter()
        loaded = sum(len(some.pixels) for some in map_in_order(loader, items, workers, begin=begin))
        assert loaded == len(files)
    elif part == "encode":
        begin = partial(torch.set_num_threads, max(1, available_cores() // workers))
        start = time.perf_counter()
        if device.type == "cpu":
            list(map_in_order(lambda batch: encoder.encode(pixels[: len(batch)]), batches, workers, begin=begin))
        else:
            queued = [encoder.start(pixels[: len(batch)]) for batch in batches]
            queued[-1].cpu()
    else:
        captions = ("A person rides a horse along the beach.",) * 5
        records = [
            Record(id=str(number), path=str(file.resolve()), split="train", captions=captions)
            for number, file in enumerate(files)
        ]
        tokenizer = load_tokenizer("demo")
        fingerprint = Fingerprint.unchecked(encoder=NAME, width=encoder.shape[-1], batch_size=size, shard_size=4096)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            encode_source(
                Source(format="folder", root=Path("/"), records=records), Output(Path(folder) / "cache.h5"), encoder,
                tokenizer, fingerprint, workers=workers, strict=True,
            )  # fmt: skip
    return len(files) / (time.perf_counter() - start)


def main() -> None:
    """Run the arms in turns, and print the median of each."""
    options = arguments()
    if options.one:
        from clipcap.data.pretrained.device import choose_device

        device = choose_device(options.device)
        time_one = {"clipcap": time_clipcap, "user": time_user}.get(options.one, time_ours)
        print(json.dumps(time_one(options, device)))
        return
    import open_clip
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = Path(folder) / "weights.safetensors"
        save_file(open_clip.create_model(NAME).state_dict(), weights)
        rates: dict[str, list[float]] = {arm: [] for arm in options.arms}
        for _ in range(options.repeats):
            for arm in options.arms:
                command = [sys.executable, __file__, str(options.folder), "--images", str(options.images)]
                command += ["--device", options.device, "--weights", str(weights), "--one", arm]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rates[arm].append(json.loads(result.stdout.splitlines()[-1]))
                print(f"{arm}: {rates[arm][-1]:.1f} images/s", file=sys.stderr, flush=True)
    for arm, found in rates.items():
        runs = ", ".join(f"{rate:.1f}" for rate in found)
        print(f"| {arm} | {statistics.median(found):.1f} | {runs} |")


if __name__ == "__main__":
    main()
