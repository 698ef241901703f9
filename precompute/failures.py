"""Images that could not be cached: each with its reason, and the rules by which they end the run."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError

logger = logging.getLogger(__name__)

_MOST_REASONS = 5


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
        half_is_fatal: whether the run ends when more than half of all images have failed.
    """

    total: int
    strict: bool
    half_is_fatal: bool = True
    found: list[Failure] = field(default_factory=list)

    def add(self, failure: Failure) -> None:
        """Count a failure.

        Raises:
            SourceError: the failure ends the run.
        """
        self.found.append(failure)
        if self.strict:
            raise SourceError(f"{failure.path}: {failure.reason} (`strict` allows no failures)")
        if self.half_is_fatal and 2 * len(self.found) > self.total:
            reason, _, example = count_reasons(self.found)[0]
            raise SourceError(
                f"{len(self.found):,} of {self.total:,} images could not be read, which is more than half; the most "
                f"frequent reason: {reason} (such as {example}); check that the dataset is complete, then run again"
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
