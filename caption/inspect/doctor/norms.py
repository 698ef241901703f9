"""Checks the lengths of embeddings: normalised or not, as the fingerprint says, and the same for all rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.content import CacheContent
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.data.command.progress import plural

UNIT = 2e-3  # distance from length 1; rounding a unit vector to float16 changes its length by less than 1e-3
AROUND = 10 * UNIT  # lengths around 1 that a smooth distribution fills as densely as those within UNIT
CHANCE = 3.0  # times as dense as around: fewer rows of length 1 occur by chance where lengths scatter around 1
GAP = 1.5  # ratio of two neighbouring lengths, sorted, that one encoder does not leave inside its distribution
SHARE = 0.01  # of the rows on each side of the gap; fewer are outliers, such as blank images


def check_norms(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find embeddings that are normalised in part, or otherwise than the fingerprint says."""
    rows = np.flatnonzero(content.usable)
    length = content.length[rows]
    if not len(rows):
        return
    unit = np.abs(length - 1) < UNIT
    recorded = content.fingerprint.normalized
    facts["length_of_embeddings"] = {
        "least": round(float(length.min()), 4),
        "median": round(float(np.median(length)), 4),
        "greatest": round(float(length.max()), 4),
        "normalised": bool(unit.all()),
        "normalised_says_the_fingerprint": recorded,
    }
    mixed = _normalised_part(length, unit) if not unit.all() else None
    if mixed is None and not unit.all():
        mixed = _far_part(length)
    if mixed is not None:
        part, what = mixed
        yield Finding(
            check="mixed_norms",
            count=int(part.sum()),
            total=len(rows),
            message=f"{part.sum():,} of {plural(len(rows), 'row')} {what}",
            cause="embeddings of two sources in one cache, one of them normalised or of another encoder",
            fix=content.command("make all embeddings with one program in one way"),
            examples=first_examples(content.names(rows[part])),
        )
    elif bool(unit.all()) != recorded:
        yield Finding(
            check="norms",
            count=len(rows),
            total=len(rows),
            message="all rows have length 1, and the fingerprint says that they are not normalised"
            if unit.all()
            else f"the rows have lengths around {np.median(length):.4g}, and the fingerprint says that they have 1",
            cause="embeddings that were changed after the cache was made",
            fix=content.command(),
        )


def _normalised_part(length: NDArray[np.float32], unit: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str] | None:
    """Return the rows of length 1 where there are more of them than around 1, and what they are."""
    around = int((np.abs(length - 1) < AROUND).sum()) - int(unit.sum())
    expected = around * UNIT / (AROUND - UNIT)
    if unit.sum() <= CHANCE * expected + 1:
        return None
    part = unit if 2 * unit.sum() <= len(unit) else ~unit
    other = float(np.median(length[~unit]))
    what = "have length 1" if part is unit else "do not have length 1"
    rest = f"the others around {other:.4g}" if part is unit else f"but around {other:.4g}, as the others do"
    return part, f"{what}, {rest}"


def _far_part(length: NDArray[np.float32]) -> tuple[NDArray[np.bool_], str] | None:
    """Return the smaller part of the rows where their lengths fall into two groups, and what it is."""
    least = max(2, int(np.ceil(SHARE * len(length))))
    inner = np.sort(length)[least - 1 : len(length) - least + 1]
    if len(inner) < 2:
        return None
    ratio = inner[1:] / inner[:-1]
    cut = int(ratio.argmax())
    if ratio[cut] < GAP:
        return None
    short = length <= inner[cut]
    part = short if 2 * short.sum() <= len(short) else ~short
    return part, f"have a length around {np.median(length[part]):.4g}, the others around {np.median(length[~part]):.4g}"
