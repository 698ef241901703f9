"""Writes shards in a thread of its own, so that the next one is encoded meanwhile."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry
from clipcap.precompute.output import Output
from clipcap.precompute.plan import Plan
from clipcap.precompute.rows import Rows, copy_rows
from clipcap.precompute.shards import build_tables, store_tables
from clipcap.precompute.views import views_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ShardWriter:
    """Writes the shards of a plan; a context, which ends after the shard that is being written.

    Args:
        plan: has the records of each shard, and knows the rows that exist.
        output: where the shards go.
        tokenizer: of the captions.
        fingerprint: the recipe.
    """

    def __init__(
        self, plan: Plan, output: Output, tokenizer: "PreTrainedTokenizerBase", fingerprint: Fingerprint
    ) -> None:
        self.plan, self.output, self.tokenizer, self.fingerprint = plan, output, tokenizer, fingerprint
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="clipcap-writer")
        self._last: Future[None] | None = None
        self._entries: dict[int, ShardEntry] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def put(self, number: int, encoded: Rows) -> None:
        """Write a shard as soon as the one before is written. Its other rows are copied.

        Args:
            number: of the shard.
            encoded: the rows that no shard had.

        Raises:
            ClipCapError: the shard before cannot be written, or one that rows are copied from is damaged.
        """
        self._wait()
        self._last = self._pool.submit(self._write, number, encoded)

    def check(self) -> None:
        """Raise what `put` would, if it is known already: nothing more needs to be encoded then."""
        if self._last is not None and self._last.done():
            self._last.result()

    def entries(self) -> dict[int, ShardEntry]:
        """Wait for the last shard, and return the entries of all shards that were put, by number.

        Raises:
            ClipCapError: as `put`.
        """
        self._wait()
        return self._entries

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def _write(self, number: int, encoded: Rows) -> None:
        survey, views = self.plan.survey, self.fingerprint.views
        rows = encoded.joined(copy_rows(survey, self.plan.shards[number], encoded.embedding.shape[1:]))
        records = [survey.source.records[i] for i in rows.records]
        shard_views = [views_of(record, views) for record in records] if views else None
        tables = build_tables(records, rows.embedding, rows.outcomes, self.tokenizer, shard_views, rows.scale)
        self._entries[number] = store_tables(self.output.shard(number), tables, self.fingerprint, number)
