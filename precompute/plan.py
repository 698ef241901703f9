"""Which records each shard of a cache is to have.

New records fill the places that are free, in the order of shards and of records. Shards that are full stay as they are.
Where nothing exists, shard k has the records from `k * shard_size` on. Whatever part of a plan is carried out, what is
left is the rest of the same plan, so that interrupted runs, and runs that make parts, agree.

    shard_size 3     shard 0   shard 1   shard 2
    exists           a b c     d e
    new: f g h       a b c     d e f     g h
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry
from clipcap.data.command.progress import plural
from clipcap.data.errors import UsageError
from clipcap.data.records import Source
from clipcap.precompute.output import Output
from clipcap.precompute.survey import NONE, Survey

Records = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        shards: the numbers of the records of each shard, ascending, by the number of the shard. None is empty.
        finished: those that are there as they should be.
        empty: the numbers of shards that are there and none of whose records is wanted any more.
        survey: what exists.
    """

    shards: dict[int, Records]
    finished: dict[int, ShardEntry]
    empty: list[int]
    survey: Survey

    def to_write(self) -> list[int]:
        """Return the numbers of the shards that are to be written; those last that replace a shard.

        So the cache that is there stays whole for as long as possible.
        """
        exist = set(self.survey.unfinished) | set(self.survey.finished)
        return sorted(self.shards.keys() - self.finished.keys(), key=lambda number: (number in exist, number))

    def to_encode(self, shard: int) -> Records:
        """Return the records of a shard that have no row anywhere."""
        records = self.shards[shard]
        missing: Records = records[self.survey.file[records] == NONE]
        return missing


def plan_output(
    source: Source,
    output: Output,
    fingerprint: Fingerprint,
    reuse: Sequence[Cache] = (),
    limit: int | None = None,
) -> Plan:
    """Find what the output, and other caches, have of a source, and plan the rest.

    Args:
        source: all its records have a split.
        output: where the cache goes.
        fingerprint: the recipe, which includes `shard_size` and `views`.
        reuse: caches of the same encoder.
        limit: how many images the source was limited to, if it was.

    Raises:
        UsageError: more than half of the images in the output would leave it, or some because of `limit`.
        CacheError: a shard to reuse is damaged.
    """
    survey = Survey(source, fingerprint.views)
    survey.add_output(output, fingerprint)
    _check_lost(survey, output, limit)
    for cache in reuse:
        for shard in cache.shards:
            survey.add_rows(shard, cache.fingerprint.views)
    survey.find_by_content()
    return plan_shards(survey, fingerprint.shard_size)


def plan_shards(survey: Survey, shard_size: int) -> Plan:
    """Plan the shards of a cache.

    Args:
        survey: what exists.
        shard_size: records in a shard at most, but for what is there.
    """
    exist = sorted({*survey.unfinished, *survey.finished})
    order = np.argsort(survey.shard, kind="stable")
    edges = np.searchsorted(survey.shard[order], [0, *exist, *(number + 1 for number in exist)])
    starts, ends = edges[1 : 1 + len(exist)], edges[1 + len(exist) :]
    kept = {number: order[start:end] for number, start, end in zip(exist, starts, ends, strict=True)}
    new = order[: edges[0]]
    shards: dict[int, Records] = {}
    finished: dict[int, ShardEntry] = {}
    for number in count():
        if not len(new) and number > max(exist, default=-1):
            break
        records = kept.get(number, new[:0])
        added, new = np.split(new, [max(0, shard_size - len(records))])
        if len(added):
            records = np.sort(np.concatenate([records, added]))
        elif number in survey.finished:
            finished[number] = survey.finished[number]
        if len(records):
            shards[number] = records
    return Plan(shards, finished, [number for number in exist if number not in shards], survey)


def _check_lost(survey: Survey, output: Output, limit: int | None) -> None:
    """Refuse a source that lacks too many of the images in the output. It may be another one, or a part of it."""
    way_out = f"give another `output`, where `reuse` {output.index} copies what it has, or `overwrite`"
    if survey.lost and limit is not None:
        raise UsageError(
            f"`limit` {limit:,} would take {plural(survey.lost, 'image')} out of {output.index}; {way_out}"
        )
    if 2 * survey.lost > survey.rows:
        fact = f"{survey.lost:,} of {survey.rows:,} images in {output.index} are not in {survey.source.root}"
        raise UsageError(f"{fact}, which is more than half; {way_out}")
