"""A seeded sample of the fuzzing that run.py does at length."""

from random import Random

import pytest

from fuzz.mutators import STRUCTURAL, mutate
from fuzz.run import fuzz
from fuzz.targets import TARGETS
from fuzz.worker import ACCEPTED, REFUSED

# Inputs of each parser: less than a minute of CPU time in all. Those that load torch take seconds to start.
SAMPLE = {
    "image": 300, "text": 200, "json": 150, "tar": 150, "parquet": 150, "rows": 150, "pickle": 150, "captions": 200,
    "options": 150, "hdf5": 100, "batches": 50, "config": 60, "safetensors": 40, "foreign": 40, "tokenizer": 60,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("parser", SAMPLE)
def test_changed_files_are_read_or_refused_in_one_line(parser: str) -> None:
    counts, faults = fuzz(parser, SAMPLE[parser], seed="sample", seconds=240)
    assert faults == []
    assert counts.total() == SAMPLE[parser]
    assert counts[ACCEPTED] > 0, "refusing everything would pass, too"
    assert counts[REFUSED] > 0


def test_the_same_seed_makes_the_same_files() -> None:
    one, other = [mutate("a.json", b'{"a": [1, 2]}', [], Random("0")) for _ in range(2)]
    assert one == other
    assert len({mutate("a.json", b'{"a": [1, 2]}', [], Random(number)) for number in range(50)}) > 30


def test_every_kind_of_structure_belongs_to_a_parser() -> None:
    assert set(SAMPLE) == set(TARGETS)
    assert all(STRUCTURAL.values())
