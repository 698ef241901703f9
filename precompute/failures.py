"""Images that could not be cached: each with its reason, and the rules by which they end the run."""

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError

logger = logging.getLogger(__name__)

_MOST_REASONS = 5
WINDOW = 1000  # images, whose failures tell early that a dataset went away in the middle of a run


class Failure(NamedTuple):
    """An image that is not in the cache: its path, relative to the dataset's root, and the reason."""

    path: str
    reason: str


@dataclass(kw_only=True)
class Failures:
    """The failures of a run, over all its shards.

    Args:
        total: number of images in the dataset.
        strict: whether the first failure ends the run.
        half_is_fatal: whether the run ends when more than half of all images have failed, or of the last `WINDOW`.
    """

    total: int
    strict: bool
    half_is_fatal: bool = True
    found: list[Failure] = field(default_factory=list)
    _last: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))  # whether the last images failed

    def count(self, path: str, reason: str | None) -> None:
        """Count an image: a failure, or None as its reason.

        Raises:
            SourceError: the failure ends the run.
        """
        self._last.append(reason is not None)
        if reason is None:
            return
        self.add(Failure(path, reason))
        if self.half_is_fatal and len(self._last) == WINDOW and 2 * sum(self._last) > WINDOW:
            raise self._too_many(f"{sum(self._last):,} of the last {WINDOW:,} images")

    def add(self, failure: Failure) -> None:
        """Count a failure that an earlier run, or an import, found.

        Raises:
            SourceError: the failure ends the run.
        """
        self.found.append(failure)
        if self.strict:
            raise SourceError(f"{failure.path}: {failure.reason} (`strict` allows no failures)")
        if self.half_is_fatal and 2 * len(self.found) > self.total:
            raise self._too_many(f"{len(self.found):,} of {self.total:,} images")

    def _too_many(self, fact: str) -> SourceError:
        reason, _, example = count_reasons(self.found)[0]
        return SourceError(
            f"{fact} could not be read, which is more than half; the most frequent reason: {reason} (such as "
            f"{example}); check that the dataset is complete, then run again"
        )


def count_reasons(failures: Sequence[Failure]) -> list[tuple[str, int, str]]:
    """Return each reason with its number of images and the first of their paths, the most frequent reason first."""
    first: dict[str, str] = {}
    for failure in failures:
        first.setdefault(failure.reason, failure.path)
    counts = Counter(failure.reason for failure in failures)
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def log_failures(failures: Sequence[Failure]) -> None:
    """Log a warning for each of the most frequent reasons."""
    for reason, count, example in count_reasons(failures)[:_MOST_REASONS]:
        logger.warning(f"{plural(count, 'image')} skipped: {reason} (such as {example})")
