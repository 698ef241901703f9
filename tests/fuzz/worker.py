"""The child process of run.py: changes seeds of one parser, reads each, and reports what came of it.

    python -m fuzz.worker PARSER SEED FIRST COUNT FOLDER SECONDS PIPE [FILE ...]

Files that are given are read as they are, instead of changed seeds. It writes JSON lines to the file descriptor PIPE:
`[NUMBER, PATH]` before an input is read, and `[NUMBER, OUTCOME, DETAIL]` after it. A reader that crashes or never ends
takes this process with it; then run.py sees that the second line is missing, and finds the input at PATH. FOLDER has
the inputs, and `log`, where the reason stands.
"""

import faulthandler
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TextIO

from clipcap.data.errors import ClipCapError, UnknownSourceError
from fuzz.mutators import STRUCTURAL, mutate
from fuzz.targets import TARGETS, Seed, Target

ACCEPTED, REFUSED = "accepted", "refused"


def outcome_of(target: Target, seed: Seed, changed: Path) -> tuple[str, str]:
    """Read a seed with every reader of its parser.

    Args:
        target: the parser.
        seed: whose path is read.
        changed: its file that was changed.

    Returns:
        `accepted` if all readers took it, `refused` if one raised an error of ours, or else what kind of fault it is;
        and a detail, which begins with what identifies the fault.
    """
    refusal = ""
    for reader in target.readers:
        try:
            reader(seed.path)
        except ClipCapError as error:
            refusal = str(error)
            fault = _fault_of(error, (seed.path, changed) if target.named else ())
            if fault:
                return fault, f"{_place(error)} | {refusal[:300]!r}"
        except MemoryError as error:
            return "memory", f"{_place(error)} | MemoryError"
        except (Exception, SystemExit) as error:
            return "exception", f"{type(error).__name__} {_place(error)} | {str(error)[:300]!r}"
    return (REFUSED, refusal[:300]) if refusal else (ACCEPTED, "")


def _fault_of(error: ClipCapError, paths: Sequence[Path]) -> str | None:
    message = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "not enough memory" in str(cause) or "malloc" in str(cause):
            return "memory"
        cause = cause.__cause__ or cause.__context__
    if len(message.splitlines()) != (3 if isinstance(error, UnknownSourceError) else 1):
        return "lines"
    return None if not paths or any(path.name in message for path in paths) else "unnamed"


def _place(error: BaseException) -> str:
    """The innermost lines of the traceback in our own code and outside."""
    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).parents[2])
    ours = [frame for frame in frames if frame.filename.startswith(root) and "/tests/" not in frame.filename]
    shown = [*ours[-1:], *(frames[-1:] if not ours or frames[-1] is not ours[-1] else [])]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(shown))


def limit_memory(gigabytes: float) -> None:
    """Let the process take this much memory more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(gigabytes * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def valid_seeds(parser: str, folder: Path) -> list[Seed]:
    """Make the seeds of a parser, and read them, which also loads the libraries.

    Raises:
        AssertionError: one is not accepted.
    """
    seeds = TARGETS[parser].seeds(folder)
    for seed in seeds:
        found = outcome_of(TARGETS[parser], seed, seed.path)
        assert found[0] == ACCEPTED, f"{seed.path} is valid, but: {found}"
    return seeds


def changed_seeds(parser: str, seed: str, numbers: range, seeds: Sequence[Seed]) -> Iterator[tuple[Seed, Path]]:
    """Yield a seed with a changed file for each number. It depends on the parser, the seed and the number alone."""
    if parser in ("hdf5", "batches"):
        from fuzz.hdf5_mutators import change_hdf5

        STRUCTURAL[".h5"] = (change_hdf5,)
    contents = {path: path.read_bytes() for one in seeds for path in one.changed}
    for number in numbers:
        random = Random(f"{parser}:{seed}:{number}")
        one = random.choice(seeds)
        path = random.choice(one.changed)
        others = [content for other, content in contents.items() if other.suffix == path.suffix]
        path.unlink()  # readers may have mapped the old content
        path.write_bytes(mutate(path.name, contents[path], others, random))
        yield one, path
        path.unlink()
        path.write_bytes(contents[path])


def read_all(target: Target, inputs: Iterable[tuple[Seed, Path]], first: int, seconds: float, pipe: TextIO) -> None:
    """Read inputs, and report each.

    Args:
        target: the parser.
        inputs: each as `outcome_of` takes it.
        first: number of the first.
        seconds: that one may take; then the process ends.
        pipe: for the reports.
    """
    limit_memory(target.memory)
    for number, (seed, path) in enumerate(inputs, first):
        print(json.dumps([number, str(path)]), file=pipe, flush=True)
        faulthandler.dump_traceback_later(seconds, exit=True)
        found = outcome_of(target, seed, path)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([number, *found]), file=pipe, flush=True)
        if found[0] not in (ACCEPTED, REFUSED):
            sys.stdin.readline()  # until run.py has copied the input


def main() -> None:
    """Take the arguments that run.py gives."""
    parser, seed, first, count, name, seconds, descriptor, *files = sys.argv[1:]
    folder, pipe = Path(name), os.fdopen(int(descriptor), "w")
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    numbers = range(int(first), int(first) + int(count))
    given = [(Seed(Path(file), [Path(file)]), Path(file)) for file in files]
    seeds = valid_seeds(parser, folder)
    inputs = given[numbers.start : numbers.stop] if files else changed_seeds(parser, seed, numbers, seeds)
    read_all(TARGETS[parser], inputs, numbers.start, float(seconds), pipe)


if __name__ == "__main__":
    main()
