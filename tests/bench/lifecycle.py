"""Kill all three stages on the demo again and again, resume them, and compare what they make with an undisturbed run.

PYTHONPATH=tests python tests/bench/lifecycle.py [--cycles N] [--images N] [--seed N]

Draws some of the demo's scenes, encodes them with a small CLIP, trains a mapper and a small GPT-2 on them, both with
random weights at first, and captions all images into a file: first undisturbed, then in laps, each in a new folder. In
a lap, each command is started, gets SIGKILL, SIGTERM, SIGHUP or SIGINT at a random moment of an undisturbed run's CPU
time, and is started again, until it ends by itself. Laps are run until N processes were ended by a signal. After each
lap, the tables of the cache, the weights, the metrics and the captions must be equal to the undisturbed run's, to the
bit, and no other files may be left. Runs on Linux.

Every run is forked from this process, which has imported the libraries, so signals meet work rather than imports. Ends
with status 1 at the first difference, or at the first run that ends with an error; prints the counts.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STAGES = {
    "precompute": "scenes -o work/cache.h5 --encoder clip --tokenizer demo --shard-size 4 --batch-size 2 --workers 2",
    "train": "work/cache.h5 -o work/run --resume --lm gpt2 --epochs 3 --batch-size 16 --lr 3e-3 --metric rouge",
    "caption": "work/cache.h5 --model work/run/best --model work/run/last --batch-size 2 -o work/captions.jsonl",
}
OPTIONS = "--device cpu --precision fp32"
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
# Statuses with which a run may end that got a signal; 130 is an interrupted run that has saved its work.
ENDED = {*(-number for number in SIGNALS), 130}
MODULES = Path("modules.json")  # what the last run that finished has imported


def import_all(names: list[str]) -> None:
    """Import modules. Nothing is computed: a fork has only the thread that forks."""
    for name in names:
        with contextlib.suppress(ImportError):  # modules under names of their own, such as `torch.ops`
            importlib.import_module(name)


def start(stage: str, log: Path) -> int:
    """Fork a process that runs a stage, and return its id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the child until its errors are caught, so that it stays here
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child
    status = 1
    arguments = f"{STAGES[stage]} {OPTIONS}".split()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from clipcap.data.command.app import run_command

        run_command(importlib.import_module(f"clipcap.{stage}.cli").app, f"clipcap-{stage}", arguments)
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except KeyboardInterrupt:  # before the command began
        status = 130
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # again
        if not status:
            MODULES.write_text(json.dumps(sorted(sys.modules)))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_stage(
    stage: str, log: Path, seconds: float = math.inf, number: signal.Signals = signal.SIGKILL
) -> float | None:
    """Run a stage, and send it a signal when it has used some seconds of CPU time, which does not depend on the load.

    Returns:
        The CPU time that it used, in seconds; None if the signal ended it.

    Raises:
        SystemExit: it ended with an error.
    """
    child = start(stage, log)
    clock = (~child << 3) | 2  # the CPU time of another process, as `clock_getcpuclockid` of Linux numbers it
    while not (done := os.wait4(child, os.WNOHANG))[0] and time.clock_gettime(clock) < seconds:
        time.sleep(0.002)
    if not done[0]:
        os.kill(child, number)
        done = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(done[1])
    if code != 0 and code not in ENDED:
        said = log.read_text() if log.exists() else ""
        sys.exit(f"{stage} ended with {code} after {seconds:.2f} s and {number.name}:\n{said}")
    return None if code else done[2].ru_utime + done[2].ru_stime


def result(work: Path) -> dict[str, str]:
    """Return what the stages made: for each file a hash, of tables where the file is a shard."""
    from clipcap.data.cache.index import Cache

    cache = Cache.open(work / "cache.h5")
    assert len(list(cache.verify())) == len(cache.shards)
    found = {shard.path.name: shard.content for shard in cache.shards} | {"cache.h5": str(cache.images)}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if not path.is_file() or name in found:
            continue
        data = path.read_bytes()
        if name == "run/metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{**line, "captions_per_second": None} for line in lines]).encode()
        times = path.suffix == ".log" or path.name == "curves.png"  # with speeds and times
        found[name] = "" if times else hashlib.sha256(data).hexdigest()
    return found


def main() -> None:
    """Run the laps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import_all(["torch", "open_clip", "transformers", *(f"clipcap.{stage}.cli" for stage in STAGES)])
    from clipcap.data.demo.dataset import write_dataset
    from clipcap.data.pretrained.bundled import BUNDLED_LANGUAGE_MODELS
    from small_world import make_clip, make_lm

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        work, log = Path("work"), Path("log")
        write_dataset(Path("scenes"), options.images)
        Path("clip").mkdir()
        make_clip(Path("clip"))
        make_lm(Path("gpt2"), BUNDLED_LANGUAGE_MODELS["demo"])
        whole = {}
        for _ in range(2):  # the first time is one with imports
            shutil.rmtree(work, ignore_errors=True)
            for stage in STAGES:
                whole[stage] = run_stage(stage, log) or 0.0
                import_all(json.loads(MODULES.read_text()))
        expected = result(work)
        lengths = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in whole.items())
        print(f"undisturbed: {lengths}; {len(expected)} files", flush=True)

        moments, laps = random.Random(options.seed), 0
        ends: Counter[tuple[str, str]] = Counter()
        while ends.total() < options.cycles:
            shutil.rmtree(work)
            for stage in STAGES:
                number = moments.choice(SIGNALS)
                while run_stage(stage, log, moments.uniform(0, whole[stage]), number) is None:
                    ends[stage, number.name] += 1
                    number = moments.choice(SIGNALS)
            found = result(work)
            different = sorted(file for file in expected.keys() | found if expected.get(file) != found.get(file))
            if different:
                sys.exit(f"lap {laps + 1}: other than the undisturbed run's: {', '.join(different)}")
            laps += 1
            print(f"lap {laps}: {ends.total()} runs ended by a signal; all files equal", flush=True)
        for stage in STAGES:
            print(f"{stage}: " + ", ".join(f"{ends[stage, number.name]} {number.name}" for number in SIGNALS))
        os.chdir("/")
    print(f"{ends.total()} cycles in {laps} laps, {time.monotonic() - begin:.0f} s: all equal to the undisturbed run")


if __name__ == "__main__":
    main()
