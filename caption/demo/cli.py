"""`clipcap-demo [DIR]`: all three stages on drawn scenes, with the small models inside the package, offline."""

import json
import logging
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.progress import Progress, duration

logger = logging.getLogger(__name__)

app = new_app()

_MODULES = {
    "clipcap-precompute": "clipcap.precompute.cli",
    "clipcap-train": "clipcap.train.cli",
    "clipcap-caption": "clipcap.caption.cli",
}
# A small GPT-2 wants a higher rate than the real one.
_RECIPE = ["--lm", "demo", "--epochs", "4", "--batch-size", "64", "--lr", "1e-3", "--sampling", "caption"]
_NEW_PAIRS = 500
_SHOWN = 12


@command(app, examples="clipcap-demo")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where everything goes.")] = Path("demo"),
    only_dataset: Annotated[
        Path | None, typer.Option("--only-dataset", metavar="DIR", help="Draw the pictures here, and do no more.")
    ] = None,
    images: Annotated[int, typer.Option(min=36, help="Pictures to draw; one in 18 is held out.")] = 9000,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Draw scenes, encode them, train on them and caption those held out: the three commands on a small example."""
    from clipcap.data.demo import dataset

    scenes, cache, run = folder / "scenes", folder / "cache.h5", folder / "checkpoints"
    with Progress("drawing", "pictures", images) as progress:
        dataset.write_dataset(only_dataset or scenes, images, progress.advance)
    if only_dataset is not None:
        print(only_dataset)
        return

    begin = time.monotonic()
    again = ["--resume"] if run.exists() else []
    _run("clipcap-precompute", scenes, "-o", cache, "--encoder", "demo", "--tokenizer", "demo")
    _run("clipcap-train", cache, "-o", run, *_RECIPE, *again)
    numbers = dataset.held_out(images)
    pictures = [scenes / "val2017" / dataset.file_name(number) for number in numbers]
    _run("clipcap-caption", pictures[0], "--model", run / "best")

    from clipcap.caption.demo.report import Trial, print_table, save_sheet, show

    def told(name: str, *inputs: object) -> list[str]:
        """The captions of some inputs, by way of a file."""
        file = folder / f"{name}.jsonl"
        _run("clipcap-caption", *inputs, "--model", run / "best", "--jsonl", "-o", file)
        return [json.loads(line)["caption"] for line in file.read_text(encoding="utf-8").splitlines()]

    truth = [dataset.make_scene(number) for number in numbers]
    new_numbers = range(_NEW_PAIRS)
    new_truth = [dataset.make_scene(number, seed=dataset.NEW_PAIRS_SEED, new_pairs=True) for number in new_numbers]
    dataset.write_pictures(folder / "new-pairs", new_numbers, seed=dataset.NEW_PAIRS_SEED, new_pairs=True)
    _save_shuffled(cache, folder / "shuffled.npy")
    trials = [
        Trial("held out", truth, told("held-out", cache, "--split", "val")),
        Trial("new pairs", new_truth, told("new-pairs", folder / "new-pairs")),
        Trial("shuffled", truth, told("shuffled", folder / "shuffled.npy")),
    ]
    shown = list(zip(pictures[:_SHOWN], trials[0].captions, trials[0].right, strict=False))
    save_sheet(shown, folder / "captions.png")
    show(shown)
    print_table(trials)
    logger.info(
        f"{folder / 'captions.png'} shows {len(shown)} of them; {duration(time.monotonic() - begin)} after drawing"
    )
    print(f"demo: {trials[0].percent_right:.1f}% of {len(truth)} held-out scenes right")


def _run(command: str, *arguments: object) -> None:
    """Show a command and run it, as a process of its own; where it fails it has said why, and we end as it did."""
    words = [str(argument) for argument in arguments]
    logger.info(f"\n$ {shlex.join([command, *words])}")
    process = subprocess.Popen([sys.executable, "-m", _MODULES[command], *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:  # Ctrl-C reached it too: it may have something to save
        process.wait()
        raise
    if status:
        raise typer.Exit(status)


def _save_shuffled(cache: Path, file: Path) -> None:
    """The embeddings of the held-out scenes, each in the place of the one before it."""
    import numpy as np

    from clipcap.data.cache.index import Cache
    from clipcap.data.records import SPLITS

    rows = [tables.embedding[tables.split == SPLITS.index("val")] for tables in Cache.open(cache).tables()]
    np.save(file, np.roll(np.concatenate(rows), 1, axis=0))


def main() -> None:
    """Entry point of `clipcap-demo`."""
    run_command(app, "clipcap-demo")


if __name__ == "__main__":
    main()
