"""Writes findings and facts as text for a terminal."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from clipcap.caption.inspect.doctor.finding import Facts, Finding
from clipcap.data.command.printable import printable
from clipcap.data.command.progress import plural

WIDTH = 110  # characters of a line; commands are not wrapped, so that they can be copied


def as_text(findings: Sequence[Finding], facts: Facts) -> str:
    """Return the facts, then each finding with its cause, its fix and its examples."""
    lines = [line for name, value in facts.items() for line in _fact(name.replace("_", " "), value)]
    for finding in findings:
        lines += ["", *_wrapped(f"{finding.check}: ", finding.message)]
        lines += _wrapped("  likeliest cause: ", finding.cause)
        lines += [f"  fix: {finding.fix}"]
        lines += [f"  - {example}" for example in finding.examples]
    lines += ["", plural(len(findings), "finding") if findings else "no findings"]
    return "\n".join(map(printable, lines))


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _fact(name: str, value: Any) -> list[str]:
    """Return the lines of a fact: a dict is an indented block, and anything else is on the line of its name."""
    if isinstance(value, dict):
        return [f"{name}:", *(f"  {str(key).replace('_', ' ')}: {_short(item)}" for key, item in value.items())]
    return [f"{name}: {_short(value)}"]


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # the words of a prefix
        return ", ".join(" ".join(str(part) for part in item.values()) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
