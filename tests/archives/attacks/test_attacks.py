"""Files that once crashed, hung or misled the program, or filled the memory, are refused in one line.

make.py wrote them, but for `parquet-levels.parquet`, at which pyarrow ended the process: the fuzzer found it.
"""

from pathlib import Path

import pytest

from fuzz.run import fuzz
from fuzz.targets import TARGETS

FOLDER = Path(__file__).parent


def attacks(parser: str) -> list[Path]:
    """The files, and the folders, that a parser is to refuse. A folder with a cache stands for the cache."""
    found = sorted(path for path in FOLDER.iterdir() if path.name.startswith(f"{parser}-"))
    return [path / "cache.h5" if (path / "cache.h5").exists() else path for path in found]


@pytest.mark.slow
@pytest.mark.parametrize("parser", [parser for parser in TARGETS if attacks(parser)])
def test_attacks_are_refused_in_one_line(parser: str) -> None:
    files = attacks(parser)
    counts, faults = fuzz(parser, len(files), files=files, seconds=240)
    assert [(files[fault.number].name, fault.kind, fault.detail) for fault in faults] == []
    assert counts == {"refused": len(files)}


def test_attacks_are_small() -> None:
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 300_000
