"""The rows of a shard before it is written: some come out of the encoder, some are copied from shards that exist."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.index import read_checked
from clipcap.data.cache.scale import rescaled
from clipcap.data.cache.shard import ShardTables
from clipcap.data.errors import ImageError
from clipcap.data.image_store import ImageStore
from clipcap.precompute.plan import Records
from clipcap.precompute.stamp import Stamp, read_stamped
from clipcap.precompute.survey import NONE, UNKNOWN_STAMP, Survey
from clipcap.precompute.views import views_of


@dataclass(frozen=True)
class Rows:
    """Rows of n records.

    Attributes:
        records: int64 (n), the numbers of the records.
        embedding: float16 (m, d) or (m, t, d): of each record that has one, the embedding and then those of its views,
            divided by `scale`.
        counts: int64 (n), how many rows each record has; 0 if its image could not be read.
        outcomes: for each record its image's stamp, or why it has no row.
        scale: of the embeddings.
    """

    records: Records
    embedding: NDArray[np.float16]
    counts: NDArray[np.int64]
    outcomes: Sequence[Stamp | str]
    scale: float

    def joined(self, other: "Rows") -> "Rows":
        """Return the rows of both, in the order of the records and with the larger scale."""
        if not len(other.records):
            return self
        records = np.concatenate([self.records, other.records])
        counts = np.concatenate([self.counts, other.counts])
        outcomes = [*self.outcomes, *other.outcomes]
        ends = np.cumsum(counts)
        order = np.argsort(records)
        rows = np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in order])
        scale = max(self.scale, other.scale)
        embedding = np.concatenate([rescaled(one.embedding, one.scale, scale) for one in (self, other)])[rows]
        return Rows(records[order], embedding, counts[order], [outcomes[i] for i in order], scale)


def copy_rows(survey: Survey, records: Records, shape: tuple[int, ...]) -> Rows:
    """Copy the rows that exist of some records.

    Args:
        survey: knows where they are.
        records: numbers of records, of which those without a row are left out.
        shape: of an embedding, (d,) or (t, d).

    Raises:
        CacheError: a shard is damaged.
    """
    rows = Rows(records[:0], np.empty((0, *shape), np.float16), np.zeros(0, np.int64), [], 1.0)
    files = survey.file[records]
    for file in np.unique(files[files != NONE]).tolist():
        rows = rows.joined(_rows_of_file(survey, records[files == file], read_checked(survey.files[file])))
    return rows


def _rows_of_file(survey: Survey, records: Records, tables: ShardTables) -> Rows:
    source = survey.source
    pieces: list[NDArray[np.float16]] = []
    counts: list[int] = []
    stamps: list[Stamp] = []
    for number in records.tolist():
        record, row = source.records[number], survey.row[number]
        views = views_of(record, survey.views)
        pieces.append(tables.embedding[row : row + 1])
        if views:
            assert tables.view is not None and tables.first_view is not None
            pieces.append(tables.view[tables.first_view[row] :][:views])
        counts.append(1 + views)
        stamps.append(_stamp(source.images, record.path, tables, row))
    return Rows(records, np.concatenate(pieces), np.array(counts), stamps, tables.scale)


def _stamp(store: ImageStore, path: str, tables: ShardTables, row: int) -> Stamp:
    """Return the stamp of an image whose row is copied. Shards of version 0.1 have no sums: such an image is read."""
    try:
        if tables.sum is None:
            return read_stamped(store, path)[1]
        return Stamp(store.stamp(path), tables.sum[row].tobytes())
    except (ImageError, OSError):  # it cannot be read now; the next run looks at it again
        return Stamp(UNKNOWN_STAMP, bytes(16) if tables.sum is None else tables.sum[row].tobytes())
