"""Fuzzes parsers: changes valid files at random, reads them, and counts the outcomes.

    PYTHONPATH=tests python -m fuzz.run --parser tar --inputs 10000 --seed 0 --faults faults

An input is accepted, or refused with an error of ours on one line that names it. Anything else is a fault: another
exception, an error of several lines or without the name, a crash, a hang, or more memory than the file is worth. The
files that cause faults are kept in the folder of `--faults`, at most three for each cause. The same parser, seed and
number make the same input again: `--first 123 --inputs 1`.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fuzz.targets import TARGETS
from fuzz.worker import ACCEPTED, REFUSED

_KEPT = 3  # inputs for each cause
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """An input that was neither accepted nor refused.

    Attributes:
        number: of the input.
        kind: `exception`, `memory`, `lines`, `unnamed`, `crash` or `hang`.
        detail: where it happened, and what the message was.
    """

    number: int
    kind: str
    detail: str

    @property
    def cause(self) -> str:
        """The same for faults at the same place."""
        return f"{self.kind} {self.detail.partition(' | ')[0]}"


def fuzz(
    parser: str,
    inputs: int,
    *,
    seed: str = "0",
    first: int = 0,
    seconds: float = 60,
    kept: Path | None = None,
    files: Sequence[Path] = (),
) -> tuple[Counter[str], list[Fault]]:
    """Read changed files in child processes.

    Args:
        parser: a name in `TARGETS`.
        inputs: how many files.
        seed: another one makes other files.
        first: number of the first file.
        seconds: after which reading one file is a hang.
        kept: folder for the inputs that cause faults; None keeps none.
        files: read these as they are, instead of changed ones.

    Returns:
        How often each outcome occurred, and the faults.

    Raises:
        RuntimeError: the parser cannot be run, as where it refuses the files that were not changed.
    """
    counts: Counter[str] = Counter()
    faults: list[Fault] = []
    end = first + inputs
    while first < end:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            first = _run_child(parser, seed, range(first, end), folder, seconds, counts, faults, kept, files)
    return counts, faults


def _run_child(
    parser: str,
    seed: str,
    numbers: range,
    folder: Path,
    seconds: float,
    counts: Counter[str],
    faults: list[Fault],
    kept: Path | None,
    files: Sequence[Path],
) -> int:
    """Run a child until it ends, and return the number of the input that comes next."""
    reading, writing = os.pipe()
    arguments = [parser, seed, numbers.start, len(numbers), folder, seconds, writing, *files]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
        "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "fuzz.worker", *map(str, arguments)],
        stdin=subprocess.PIPE, env=environment, pass_fds=[writing], text=True,
    )  # fmt: skip
    os.close(writing)
    number, path, began = numbers.start, Path(), False
    with os.fdopen(reading) as lines, child:
        assert child.stdin is not None
        for line in lines:
            event = json.loads(line)
            number, began = event[0], len(event) == 2
            if began:
                path = Path(event[1])
                continue
            counts[event[1]] += 1
            if event[1] not in (ACCEPTED, REFUSED):
                _add(Fault(number, event[1], event[2]), faults, kept, parser, seed, path)
                _go_on(child.stdin)
    log = (folder / "log").read_text(errors="replace") if (folder / "log").exists() else ""
    if child.returncode > 0 and not began:
        raise RuntimeError(f"{parser}, after input {number}: {log[-3000:]}")
    if child.returncode:
        kind = "hang" if "Timeout (" in log else "crash"
        counts[kind] += 1
        _add(Fault(number, kind, _reason(child.returncode, log)), faults, kept, parser, seed, path)
    return number + 1


def _go_on(stream: IO[str]) -> None:
    stream.write("\n")
    stream.flush()


def _reason(status: int, log: str) -> str:
    """How a child died, and the innermost frames of ours and of others, as `faulthandler` wrote them."""
    frames = [
        line.split('"')[1] + ":" + line.split("line ")[1].split(" ")[0] for line in log.splitlines() if 'File "' in line
    ]
    ours = next((frame for frame in frames if "/tests/" not in frame and "/lib/" not in frame), "")
    cause = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"{cause} {Path(frames[0]).name if frames else ''} < {Path(ours).name} | {log[-600:]!r}"


def _add(fault: Fault, faults: list[Fault], kept: Path | None, parser: str, seed: str, path: Path) -> None:
    faults.append(fault)
    if kept is None:
        return
    kept.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(fault.cause.encode()).hexdigest()[:6]
    if len(list(kept.glob(f"{parser}-{fault.kind}-{digest}-*.txt"))) < _KEPT:
        name = f"{parser}-{fault.kind}-{digest}-{seed}-{fault.number}"
        if path.is_file():
            shutil.copyfile(path, kept / f"{name}-{path.parent.name}-{path.name}")
        (kept / f"{name}.txt").write_text(f"{path}\n{fault.kind}\n{fault.detail}\n", errors="replace")


def main() -> None:
    """Fuzz the parsers that are named, print counts and causes, and fail if there was a fault."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parser", nargs="+", choices=TARGETS, default=list(TARGETS))
    options.add_argument("--inputs", type=int, default=10_000, help="for each parser")
    options.add_argument("--seed", default="0")
    options.add_argument("--first", type=int, default=0, help="number of the first input")
    options.add_argument("--seconds", type=float, default=60, help="limit for one input")
    options.add_argument("--faults", type=Path, help="folder for inputs that cause faults")
    chosen = options.parse_args()
    failed = False
    for parser in chosen.parser:
        start = time.monotonic()
        counts, faults = fuzz(
            parser, chosen.inputs, seed=chosen.seed, first=chosen.first, seconds=chosen.seconds, kept=chosen.faults
        )
        failed = failed or bool(faults)
        print(f"{parser}: {dict(sorted(counts.items()))} in {time.monotonic() - start:.0f} s")
        causes = Counter(fault.cause for fault in faults)
        examples = {fault.cause: fault for fault in faults}
        for cause, count in causes.most_common():
            message = examples[cause].detail.partition(" | ")[2]
            print(f"    {count:6,}  {cause}, such as {examples[cause].number}: {message[:200]}")
        sys.stdout.flush()
    sys.exit(failed)


if __name__ == "__main__":
    main()
