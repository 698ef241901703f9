"""Writes findings and facts as text for a terminal."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from clipcap.caption.inspect.doctor.finding import Facts, Finding
from clipcap.data.command.progress import plural

WIDTH = 110  # characters of a line; commands are not wrapped, so that they can be copied


def as_text(findings: Sequence[Finding], facts: Facts) -> str:
    """Return the facts, then each finding with its cause, its fix and its examples."""
    lines = [f"{name.replace('_', ' ')}:{_value(value)}" for name, value in facts.items()]
    for finding in findings:
        lines += ["", *_wrapped(f"{finding.check}: ", finding.message)]
        lines += _wrapped("  likeliest cause: ", finding.cause)
        lines += [f"  fix: {finding.fix}"]
        lines += [f"  - {example}" for example in finding.examples]
    lines += ["", plural(len(findings), "finding") if findings else "no findings"]
    return "\n".join(lines)


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _value(value: Any) -> str:
    """Return a dict as an indented block, and anything else on the same line."""
    if isinstance(value, dict):
        return "".join(f"\n  {str(name).replace('_', ' ')}: {_short(item)}" for name, item in value.items())
    return f" {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # the words of a prefix
        return ", ".join(" ".join(str(part) for part in item.values()) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
