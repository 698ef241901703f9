"""The demo: draw scenes, run the three commands on them, and let the judge compare the captions with the scenes.

Each command runs as a process of its own and is shown as a person would type it.
"""

import json
import logging
import shlex
import subprocess
import sys
import time
from pathlib import Path

from clipcap.caption.demo.report import Trial, print_table, save_sheet, show
from clipcap.data.command.progress import duration
from clipcap.data.demo import dataset

logger = logging.getLogger(__name__)

_MODULES = {
    "clipcap-precompute": "clipcap.precompute.cli",
    "clipcap-train": "clipcap.train.cli",
    "clipcap-caption": "clipcap.caption.cli",
}
# A small GPT-2 needs a higher learning rate than the published one.
_RECIPE = ["--lm", "demo", "--epochs", "4", "--batch-size", "64", "--lr", "1e-3", "--sampling", "caption"]
_NEW_PAIRS = 500  # scenes whose colours and shapes were never together in training
_SHOWN = 12


class CommandError(Exception):
    """A command of the demo ended with an error, which it has printed.

    Attributes:
        status: its exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def run_demo(folder: Path, images: int) -> Trial:
    """Encode, train on and caption the scenes in `folder/scenes`, and print the captions and how many are right.

    A second call continues where the first one stopped.

    Args:
        folder: which `dataset.write_dataset` has filled.
        images: how many scenes it was given.

    Returns:
        The captions of the held-out scenes, judged.

    Raises:
        CommandError: one of the commands ended with an error.
    """
    scenes, cache, run = folder / "scenes", folder / "cache.h5", folder / "checkpoints"
    begin = time.monotonic()
    again = ["--resume"] if run.exists() else []
    _run("clipcap-precompute", scenes, "-o", cache, "--encoder", "demo", "--tokenizer", "demo")
    _run("clipcap-train", cache, "-o", run, *_RECIPE, *again)
    numbers = dataset.held_out(images)
    files = [scenes / "val2017" / dataset.file_name(number) for number in numbers]
    _run("clipcap-caption", files[0], "--model", run / "best")

    truth = [dataset.make_scene(number) for number in numbers]
    new_numbers = range(_NEW_PAIRS)
    new_truth = [dataset.make_scene(number, seed=dataset.NEW_PAIRS_SEED, new_pairs=True) for number in new_numbers]
    dataset.write_images(folder / "new-pairs", new_numbers, seed=dataset.NEW_PAIRS_SEED, new_pairs=True)
    _save_shuffled(cache, folder / "shuffled.npy")
    trials = [
        Trial("held out", truth, _captions(folder, "held-out", cache, "--split", "val")),
        Trial("new pairs", new_truth, _captions(folder, "new-pairs", folder / "new-pairs")),
        Trial("shuffled", truth, _captions(folder, "shuffled", folder / "shuffled.npy")),
    ]
    shown = list(zip(files[:_SHOWN], trials[0].captions, trials[0].right, strict=False))
    save_sheet(shown, folder / "captions.png")
    show(shown)
    print_table(trials)
    took = duration(time.monotonic() - begin)
    logger.info(f"{folder / 'captions.png'} shows {len(shown)} of them; {took} after drawing")
    return trials[0]


def _captions(folder: Path, name: str, *inputs: object) -> list[str]:
    """Caption some inputs into `folder/name.jsonl`, and read the captions from there."""
    file = folder / f"{name}.jsonl"
    _run("clipcap-caption", *inputs, "--model", folder / "checkpoints" / "best", "--jsonl", "-o", file)
    return [json.loads(line)["caption"] for line in file.read_text(encoding="utf-8").split("\n") if line]


def _run(command: str, *arguments: object) -> None:
    """Show a command and run it as a process of its own."""
    words = [str(argument) for argument in arguments]
    logger.info("")
    logger.info(f"$ {shlex.join([command, *words])}")
    process = subprocess.Popen([sys.executable, "-m", _MODULES[command], *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:  # Ctrl-C reached the command as well, which may have to save its work
        process.wait()
        raise
    if status:
        raise CommandError(status)


def _save_shuffled(cache: Path, file: Path) -> None:
    """Save the embeddings of the held-out scenes, each in the place of the scene before it."""
    import numpy as np

    from clipcap.data.cache.index import Cache
    from clipcap.data.records import SPLITS

    rows = [tables.values(tables.split == SPLITS.index("val")) for tables in Cache.open(cache).tables()]
    np.save(file, np.roll(np.concatenate(rows), 1, axis=0))
