"""Mutation testing changes each place of a module in the ways that it says, and leaves texts for people."""

from mutation import mutants

SOURCE = '''
"""A docstring."""
import os

def first(values: list[int], limit: int = 3) -> int | None:
    """Another one."""
    logger.info("done")
    total = 0
    for value in values:
        if value < limit and not total:
            break
        total += value
    if total is None:
        raise ValueError("no total")
    return -total
'''


def test_each_place_is_changed_and_texts_are_left() -> None:
    found = [(mutant.before.splitlines()[0], mutant.after.splitlines()[0]) for mutant in mutants(SOURCE)]
    assert found == [
        ("3", "4"),
        ("total = 0", "pass"),
        ("0", "1"),
        ("if value < limit and (not total):", "if not (value < limit and (not total)):"),
        ("value < limit and (not total)", "value < limit or not total"),
        ("value < limit", "value <= limit"),
        ("not total", "total"),
        ("break", "continue"),
        ("total += value", "total -= value"),
        ("total += value", "pass"),
        ("if total is None:", "if not total is None:"),
        ("total is None", "total is not None"),
        ("raise ValueError('no total')", "pass"),
        ("return -total", "return None"),
        ("-total", "total"),
    ]


def test_a_mutant_differs_from_the_module_in_one_place() -> None:
    texts = [mutant.source for mutant in mutants(SOURCE)]
    assert len(set(texts)) == len(texts)
    assert all("A docstring" in text and "def first(values: list[int]" in text for text in texts)
