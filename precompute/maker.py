"""Makes shards: their images go through the encoder, and while one shard is written, the next is encoded."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry
from clipcap.data.cache.scale import rescaled
from clipcap.data.command.progress import Progress
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.failures import Failures
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.output import Output
from clipcap.precompute.pipeline import Embedded, embed
from clipcap.precompute.plan import Plan, Records
from clipcap.precompute.rows import Rows
from clipcap.precompute.stamp import Stamp
from clipcap.precompute.views import views_of
from clipcap.precompute.writer import ShardWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ShardMaker:
    """Makes shards of a plan.

    Args:
        plan: has the records of each shard, and knows the rows that exist.
        output: where the shards go.
        encoder, tokenizer: those that the fingerprint describes.
        fingerprint: the recipe.
        workers: number of threads that load images, and on a CPU encode them; 0 does everything in this thread.
    """

    def __init__(
        self,
        plan: Plan,
        output: Output,
        encoder: Encoder,
        tokenizer: "PreTrainedTokenizerBase",
        fingerprint: Fingerprint,
        *,
        workers: int,
    ) -> None:
        self.plan, self.output, self.encoder, self.tokenizer = plan, output, encoder, tokenizer
        self.fingerprint, self.workers = fingerprint, workers
        height, width = encoder.preprocess["size"]
        self._records = plan.survey.source.records
        self._loader = Loader(plan.survey.source.images, encoder.transform, (height, width))

    def make(self, numbers: Sequence[int], failures: Failures, progress: Progress) -> dict[int, ShardEntry]:
        """Encode and write shards, in the order of their numbers as given.

        Args:
            numbers: of the shards.
            failures: counts the images that fail.
            progress: shows the images that are done, and which share of the time loading takes.

        Returns:
            The entries of the shards, by number.

        Raises:
            SourceError: the failures end the run. Shards that are written stay.
            ClipCapError: a shard cannot be written, or one that rows are copied from is damaged.
        """
        to_encode = {number: self.plan.to_encode(number) for number in numbers}
        batches = (self._items(batch) for share in to_encode.values() for batch in self._batches(share))
        embedded = embed(batches, self._loader, self.encoder, self.workers)  # starts when the first batch is taken
        with (
            ShardWriter(self.plan, self.output, self.tokenizer, self.fingerprint) as writer,
            contextlib.closing(embedded),
        ):
            for number, share in to_encode.items():
                taken: list[Embedded] = []
                loading = encoding = 0.0
                while sum(len(batch.outcomes) for batch in taken) < len(share):
                    batch = next(embedded)
                    self._count(batch, share[sum(len(one.outcomes) for one in taken) :], failures)
                    taken.append(batch)
                    loading, encoding = loading + batch.loading, encoding + batch.encoding
                    skipped = sum(isinstance(outcome, str) for outcome in batch.outcomes)
                    remark = f"{loading / max(loading + encoding, 1e-9):.0%} loading"
                    progress.advance(len(batch.outcomes), skipped=skipped, remark=remark)
                    writer.check()
                writer.put(number, self._rows(share, taken))
            return writer.entries()

    def _batches(self, share: Records) -> Iterator[Records]:
        """Divide the records of one shard into batches.

        No batch reaches into the next shard, so the content of a shard does not depend on where a run began.
        """
        size = self.fingerprint.batch_size
        return (share[start : start + size] for start in range(0, len(share), size))

    def _items(self, batch: Records) -> list[Item]:
        records = [self._records[i] for i in batch]
        return [Item(record.path, views_of(record, self.fingerprint.views)) for record in records]

    def _count(self, batch: Embedded, share: Records, failures: Failures) -> None:
        """Count the images of a batch, which are the first ones of `share`."""
        for i, outcome in zip(share[: len(batch.outcomes)], batch.outcomes, strict=True):
            failures.count(self._records[i].path, outcome if isinstance(outcome, str) else None)

    def _rows(self, share: Records, taken: Sequence[Embedded]) -> Rows:
        """Put the batches of a shard together, with the largest of their scales."""
        outcomes = [outcome for batch in taken for outcome in batch.outcomes]
        items = self._items(share)
        counts = [1 + item.views if isinstance(one, Stamp) else 0 for item, one in zip(items, outcomes, strict=True)]
        nothing: NDArray[np.float16] = np.empty((0, *self.encoder.shape), np.float16)
        scale = max((batch.scale for batch in taken), default=1.0)
        embedding = np.concatenate([nothing, *(rescaled(batch.rows, batch.scale, scale) for batch in taken)])
        return Rows(share, embedding, np.array(counts, np.int64), outcomes, scale)
