"""Measure the time that `--help` of every command takes, as whole processes, beside that of the bare interpreter.

    python tests/bench/startup.py

The commands and `python -c pass` run in turn; the figures are medians.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "precompute": "clipcap.precompute.cli",
    "train": "clipcap.train.cli",
    "caption": "clipcap.caption.cli",
    "inspect": "clipcap.caption.inspect.cli",
    "demo": "clipcap.caption.demo.cli",
}
REPEATS = 15


def seconds(arguments: list[str]) -> float:
    """Return the wall-clock seconds of one process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print a row for each command: median, minimum, maximum, and the ratio to the bare interpreter."""
    rows = {name: ["-m", module, "--help"] for name, module in COMMANDS.items()}
    runs = {"(python -c pass)": ["-c", "pass"], **rows}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, arguments in runs.items():
            taken = seconds(arguments)
            if repeat:  # the first round warms up the disk cache
                times[name].append(taken)
    bare = statistics.median(times["(python -c pass)"])
    for name, taken_times in times.items():
        median = statistics.median(taken_times)
        print(
            f"{name:18} {median:.3f} s ({min(taken_times):.3f} to {max(taken_times):.3f}), {median / bare:.1f} x bare"
        )


if __name__ == "__main__":
    main()
