"""Takes a number of rows, evenly spaced, where all of them would take too long."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def spaced(rows: "NDArray[np.int64]", count: int) -> "NDArray[np.int64]":
    """Return at most `count` of the rows, evenly spaced: int64."""
    import numpy as np

    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // max(1, count)]
