"""Kill stage 1 again and again, fill its disk, change its dataset, and count how many images are encoded in all.

python tests/bench/endurance.py FOLDER [--images N] [--kills N] [--shard-size N]

FOLDER holds photographs. N of them become a dataset (a folder, with a caption file beside each image), which the demo's
CLIP encodes in runs that are killed at random moments and, twice, find the disk full. Then an image is added, one is
changed, one is removed, and a shard is damaged. Prints what was encoded and how the cache compares with an undisturbed
run's: to the bit after kills and full disks, row by row after the changes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# Runs the command; notes how many images each batch has; the disk is full at the third write, where that is asked for.
PROGRAM = """
import errno, os, sys
from clipcap.precompute import cli, pipeline
start, sync, writes = pipeline._start, os.fsync, 0

def noting(encoder, pixels):
    with open(os.environ["ENCODED"], "a") as file:
        file.write(f"{len(pixels)}\\n")
    return start(encoder, pixels)

def full(file):
    global writes
    writes += 1
    if writes == 3:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return sync(file)

pipeline._start = noting
if os.environ.get("FULL"):
    os.fsync = full
cli.main()
"""


class Trial:
    """A dataset, its cache, and the commands on it."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.dataset, self.cache, self.log = folder / "photographs", folder / "cache.h5", folder / "encoded.txt"
        self._options = ["--encoder", "demo", "--tokenizer", "demo", "--precision", "fp32", "--device", "cpu"]
        self._options += ["--shard-size", str(options.shard_size), "--batch-size", "8"]
        self.dataset.mkdir()
        found = sorted(options.folder.rglob("*.jpg"))
        for number in range(options.images):
            self.add(number, found[number % len(found)])

    def add(self, number: int, photograph: Path) -> None:
        """Add a photograph, or change it; a comment makes each file another one."""
        data = photograph.read_bytes()
        comment = f"number {number}".encode()
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (self.dataset / f"{number:05d}.jpg").write_bytes(data[:2] + marker + data[2:])
        (self.dataset / f"{number:05d}.txt").write_text(f"photograph number {number}\n")

    def start(self, output: Path, **environment: str) -> "subprocess.Popen[bytes]":
        """Start the command."""
        command = [sys.executable, "-c", PROGRAM, str(self.dataset), "-o", str(output), *self._options]
        everything = {**os.environ, "ENCODED": str(self.log), **environment}
        return subprocess.Popen(command, env=everything, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def run(self, output: Path, status: int = 0, **environment: str) -> str:
        """Run the command to its end, and return what it says."""
        process = self.start(output, **environment)
        _, err = process.communicate()
        assert process.returncode == status, err.decode()
        return err.decode()

    def encoded(self) -> int:
        """Return how many images were encoded since the last call."""
        sizes = [int(line) for line in self.log.read_text().split()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sum(sizes)


def rows(cache: Path) -> dict[str, Any]:
    """Return the embedding, the split, the captions and the tokens of each image, by its id."""
    from clipcap.data.cache.index import Cache

    found = {}
    for tables in Cache.open(cache).tables():
        for row, name in enumerate(tables.id):
            captions = range(tables.first_caption[row], tables.first_caption[row + 1])
            tokens = [tables.token[tables.first_token[j] : tables.first_token[j + 1]].tolist() for j in captions]
            told = (tables.path[row], int(tables.split[row]), [tables.text[j] for j in captions], tokens)
            found[name] = (tables.embedding[row].astype(np.float64).ravel(), told)
    return found


def compare(one: Path, other: Path) -> str:
    """Say how the rows of two caches compare."""
    first, second = rows(one), rows(other)
    assert first.keys() == second.keys()
    assert all(first[name][1] == second[name][1] for name in first)
    pairs = [(first[name][0], second[name][0]) for name in first]
    lowest = min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)
    return f"{len(first):,} images with the same captions, splits and tokens; lowest cosine {lowest:.6f}"


def contents(cache: Path) -> list[str]:
    """Return the hashes of the shards."""
    from clipcap.data.cache.index import Cache

    return [shard.content for shard in Cache.open(cache).shards]


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shard-size", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(Path(name), options)
        fresh = Path(name) / "fresh.h5"
        trial.run(fresh)
        print(f"undisturbed: {trial.encoded():,} images encoded")
        moments, kills, total = random.Random(0), 0, 0
        while kills < options.kills:
            process = trial.start(trial.cache)
            while process.poll() is None and not trial.log.exists():
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it had ended before; give more --images"
            kills += 1
            total += (encoded := trial.encoded())
            print(f"kill {kills}: {encoded:,} images encoded", flush=True)
            if kills in (options.kills // 3, 2 * options.kills // 3):
                assert "No space left" in trial.run(trial.cache, status=2, FULL="1")
                total += (encoded := trial.encoded())
                print(f"disk full: {encoded:,} images encoded", flush=True)
        trial.run(trial.cache)
        total += (encoded := trial.encoded())
        print(f"the last run: {encoded:,} images encoded; {total:,} in all, {total - options.images:,} of them again")
        print(f"tables bit-equal to the undisturbed run's: {contents(trial.cache) == contents(fresh)}")

        photograph = sorted(options.folder.rglob("*.jpg"))[0]
        trial.add(options.images, photograph)
        trial.add(1, photograph)
        (trial.dataset / "00002.jpg").unlink()
        (trial.dataset / "00002.txt").unlink()
        damaged = sorted(Path(name).glob("cache-*.h5"))[-2]
        damaged.write_bytes(damaged.read_bytes()[:-1000])
        print(trial.run(trial.cache).strip().replace(name, ""))
        print(f"after growth: {trial.encoded():,} images encoded, {options.shard_size} of them of the damaged shard")
        trial.run(Path(name) / "grown.h5")
        print(compare(trial.cache, Path(name) / "grown.h5"))


if __name__ == "__main__":
    main()
