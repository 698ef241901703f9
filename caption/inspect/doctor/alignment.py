"""Measures whether images that are alike have captions that are alike, at every shift of the captions at once.

Embeddings and captions become the columns X (n, p) and Y (n, q): their principal components, each with mean 0 and
variance 1. If the captions of row i describe the image of row i + k, some columns correlate at the shift k:

    strength(k) = n * sum over all p * q pairs of columns of (their correlation at shift k) ** 2

Without any relation, each term is the square of a standard normal number, so strength(k) is about p * q at every k,
whatever the scale of the embeddings and the language of the captions. A Fourier transform gives all shifts at once.

This module knows nothing of caches. n rows, p and q columns, shifts are circular.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.float32]

CLIPPED = 3.0  # standard deviations; larger values become this, so that no single row decides a correlation
COMPONENTS = 32  # columns of each kind: on the 8,091 rows of Flickr8k they give a z of 1,000
ROWS_PER_COMPONENT = 20  # fewer rows for each column overfit: a correlation of 20 random rows is 0.2 already
NOISE = 2.5  # standard errors; correlations below this are taken for 0
PRICE = 20.0  # nats of evidence, besides log(n), that a change of the shift needs; chance gives them once in e ** 20


def signed(shift: int, n: int) -> int:
    """Return a circular shift of n rows as the equivalent one with the least absolute value."""
    return shift - n if shift > n // 2 else shift


def peaks(z: NDArray[np.float64], least: float, count: int) -> list[int]:
    """Return the shifts of the greatest z, signed, greatest first: at most `count`, each with at least `least`."""
    order = np.argsort(-z, kind="stable")[:count]
    return [signed(int(k), len(z)) for k in order if z[k] >= least]


def component_count(rows: int) -> int:
    """Return how many columns to compare for a number of usable rows."""
    return min(COMPONENTS, rows // ROWS_PER_COMPONENT)


def whitened(columns: Columns, used: NDArray[np.bool_]) -> Columns:
    """Scale columns to mean 0 and variance 1, limit outliers, and set rows that are not used to 0.

    Args:
        columns: float32 (n, p).
        used: bool (n).
    """
    result = np.zeros_like(columns)
    rows = columns[used]
    for _ in range(2):  # limiting outliers changes the variance
        rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-12)
        rows = rows.clip(-CLIPPED, CLIPPED)
    result[used] = rows
    return result


def components(sample: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean (d) and the first `count` principal directions (d, count) of rows (m, d)."""
    mean = sample.mean(axis=0)
    centred = sample - mean
    _, vectors = np.linalg.eigh(centred.T @ centred / len(sample))  # ascending eigenvalues
    return mean, vectors[:, ::-1][:, :count].astype(np.float32)


def align(x: Columns, y: Columns) -> NDArray[np.float64]:
    """Measure the strength of the relation at all shifts.

    Args:
        x, y: float32 (n, p) of embeddings and (n, q) of captions, as `whitened` returns them.

    Returns:
        z, float64 (n): the strength at each circular shift, in standard deviations above that of unrelated rows.
    """
    n, p = x.shape
    q = y.shape[1]
    transformed = np.fft.rfft(y, axis=0).T.conj()  # (q, n // 2 + 1)
    strength = np.zeros(n)
    for column in np.fft.rfft(x, axis=0).T:
        correlation = np.fft.irfft(column * transformed, n, axis=1)  # (q, n): sum over i of x[i + k] * y[i]
        strength += np.square(correlation).sum(axis=0) / n
    z: NDArray[np.float64] = (strength - p * q) / np.sqrt(2 * p * q)
    return z


def standing_out(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each shift stands out among all of them, in robust standard deviations but at most z itself.

    In a dataset that is sorted by subject, neighbouring rows are related, and z is large at many shifts.
    """
    middle = np.median(z)
    spread = 1.4826 * np.median(np.abs(z - middle))
    result: NDArray[np.float64] = (z - max(0.0, middle)) / max(1.0, spread)
    return result


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows `first` to `last` - 1, whose captions belong to the embeddings `shift` rows on; None: to no known ones."""

    first: int
    last: int
    shift: int | None

    def __len__(self) -> int:
        return self.last - self.first


def evidence(x: Columns, y: Columns, shifts: list[int]) -> NDArray[np.float64]:
    """Return for each row and shift the evidence that its captions belong to the embedding that many rows on.

    It is the logarithm of a likelihood ratio against unrelated rows, in nats: above 0, a relation is more likely.
    With w the correlations of the columns, x.w.y has the mean sum(w * w) for a pair and 0 for unrelated rows, and the
    variance sum(w * w) for both, as far as the columns are normal.

    Args:
        x, y: as for `align`.
        shifts: the S shifts at which there is a relation.

    Returns:
        float64 (n, S); 0 where the embedding or the captions are not known.
    """
    n = len(x)
    weights: NDArray[np.float32] = np.zeros((x.shape[1], y.shape[1]), dtype=np.float32)
    for shift in shifts:
        weights += np.roll(x, -shift, axis=0).T @ y / n
    weights[np.abs(weights) < NOISE / np.sqrt(n)] = 0
    predicted = y @ weights.T  # (n, p): what the captions predict of the embedding
    related = np.square(weights).sum() / 2
    scores = np.zeros((n, len(shifts)))
    for column, shift in enumerate(shifts):
        image = np.roll(x, -shift, axis=0)
        known = image.any(axis=1) & y.any(axis=1)
        scores[:, column] = np.where(known, (image * predicted).sum(axis=1) - related, 0)
    return scores


def segment(evidence: NDArray[np.float64], shifts: list[int]) -> list[Segment]:
    """Divide the rows into segments of one shift each: those with the greatest evidence, less a price for each change.

    Args:
        evidence: float64 (n, S), as `evidence` returns it.
        shifts: the S shifts.

    Returns:
        The segments in order.
    """
    n = len(evidence)
    price = PRICE + np.log(n)
    scores = np.concatenate([evidence, np.zeros((n, 1))], axis=1)  # the last state: unrelated
    total = scores[0].copy()
    came_from = np.empty(scores.shape, dtype=np.int64)
    stay = np.arange(scores.shape[1])
    for row in range(1, n):
        best = int(total.argmax())
        changed = total[best] - price > total
        came_from[row] = np.where(changed, best, stay)
        total = np.where(changed, total[best] - price, total) + scores[row]
    states = np.empty(n, dtype=np.int64)
    states[-1] = total.argmax()
    for row in range(n - 1, 0, -1):
        states[row - 1] = came_from[row, states[row]]
    edges = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), n]
    known: list[int | None] = [*shifts, None]
    return [Segment(first=a, last=b, shift=known[states[a]]) for a, b in pairwise(edges)]
