"""Reads metrics.jsonl of a run as far as it is whole: a crash may have cut a line, and a person may have edited one."""

from pathlib import Path
from typing import Any

from clipcap.data.files import parse_json, read_text

MAX_BYTES = 1 << 30  # of a run of some hundred million steps


def read_metrics(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each line that is an object: its text, and its values that are finite numbers, by name.

    Raises:
        OSError: the file does not exist, cannot be read, or is too large.
    """
    try:
        texts = read_text(file, limit=MAX_BYTES).split("\n")
    except ValueError:  # it is not UTF-8
        return []
    lines = []
    for text in texts:
        try:
            line = parse_json(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append((text, {name: value for name, value in line.items() if _is_number(value)}))
    return lines


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e30 < value < 1e30
