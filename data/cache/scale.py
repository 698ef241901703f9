"""The scale of a shard: float16 ends at 65,504, so larger numbers are stored divided by a power of two.

    embeddings           0.5     98,304    -3
    stored, scale 2      0.25    49,152    -1.5

Dividing by a power of two changes no digit of a number, unless the quotient is below 2^-14, where float16 has fewer
digits. n embeddings.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_NORMAL = 2.0**-14  # below this, float16 has fewer digits
_INFINITE = 65520.0  # the least number that float16 rounds to infinity
_GREATEST = 2.0**16  # the greatest scale: one broken embedding with huge numbers shall not take the digits of others


def is_scale(value: float) -> bool:
    """Whether a number can be the scale of a shard: a power of two from 1 to 2^16."""
    return 1 <= value <= _GREATEST and math.frexp(value)[0] == 0.5


def magnitudes(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the largest absolute number of each embedding; NaN if it holds one.

    Args:
        rows: float (n, d) or (n, t, d).

    Returns:
        float64 (n).
    """
    axes = tuple(range(1, rows.ndim))
    largest: NDArray[Any] = np.maximum(rows.max(axes, initial=0), -rows.min(axes, initial=0))
    return largest.astype(np.float64)


def storable(magnitude: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which embeddings can be stored, bool (n): those that are finite, and below 4.3e9.

    Args:
        magnitude: float64 (n), as `magnitudes` returns them.
    """
    found: NDArray[np.bool_] = magnitude < _INFINITE * _GREATEST
    return found


def scale_of(magnitude: NDArray[np.float64]) -> float:
    """Return the least scale with which float16 holds embeddings; 1 where it holds them as they are.

    Args:
        magnitude: float64 (n), as `magnitudes` returns them; all are storable.
    """
    largest = magnitude.max(initial=0)
    scale = 1.0
    while largest >= _INFINITE * scale:
        scale *= 2
    return scale


def to_float16(rows: NDArray[Any], scale: float) -> NDArray[np.float16]:
    """Round embeddings, divided by their scale, to float16. Numbers that are too large become infinite."""
    with np.errstate(over="ignore"):
        return (rows if scale == 1 else rows / scale).astype(np.float16)


def rescaled(stored: NDArray[np.float16], scale: float, to: float) -> NDArray[np.float16]:
    """Return float16 embeddings that are stored with one scale as they are stored with another, which is no less."""
    return stored if scale == to else to_float16(stored.astype(np.float32), to / scale)
