"""What a check reports: findings, which are faults, and facts, which are figures that are shown in any case."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Facts = dict[str, Any]  # figures by name, as JSON can hold them; each check adds its own

EXAMPLES = 20  # examples that a finding names; more would hide the other findings


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault of a cache or a checkpoint.

    Attributes:
        check: name of the fault, such as `shifted`. A check may report several kinds of faults.
        count: how many rows, captions, pairs or figures have it.
        total: how many were examined.
        message: what was found, one sentence with the count.
        cause: its likeliest cause, one sentence.
        fix: the command that fixes it; parameters stand in backticks.
        examples: the first of what has the fault, at most `EXAMPLES`.
    """

    check: str
    count: int
    total: int
    message: str
    cause: str
    fix: str
    examples: tuple[str, ...] = ()


def first_examples(examples: Sequence[str]) -> tuple[str, ...]:
    """Return the examples that a finding names, and how many are left out."""
    shown = tuple(examples[:EXAMPLES])
    return (*shown, f"and {len(examples) - EXAMPLES:,} more") if len(examples) > EXAMPLES else shown
