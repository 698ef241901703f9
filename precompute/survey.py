"""What caches that exist have of the images of a dataset, so that no image is encoded twice.

A row belongs to the record with its path. It is used while the image's file has the size and the time that it had, or
else the content that it had. An image under a new path takes the row of an image with the same content:

    dataset            shards                survey
    a.jpg              0: a.jpg, b.jpg       a.jpg   in shard 0, has row 0 of shard 0
    b.jpg (changed)    1: c.jpg              b.jpg   in shard 0, has no row
    d.jpg (was c.jpg)                        d.jpg   in shard 1, has row 0 of shard 1

A record stays in the shard that has it, whatever happens to its image and captions. So does an image under a new path,
in the place of the old one: a shard that is rewritten takes rows from itself and from other caches, never from another
shard of the output, which may be rewritten before or at the same time.
"""

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.hdf5 import open_hdf5
from clipcap.data.cache.index import ShardEntry, describe_shard, read_fingerprint
from clipcap.data.cache.shard import ShardTables, read_shard
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, ImageError
from clipcap.data.image_store import FileStamp
from clipcap.data.records import SPLITS, Record, Source, storable
from clipcap.precompute.failures import Failure
from clipcap.precompute.loading import can_be_loaded
from clipcap.precompute.output import Output
from clipcap.precompute.parallel import choose_workers, map_in_order
from clipcap.precompute.path_index import PathIndex
from clipcap.precompute.pipeline import NOT_FINITE
from clipcap.precompute.shards import stored_captions
from clipcap.precompute.stamp import read_stamped

logger = logging.getLogger(__name__)

NONE = -1
UNKNOWN_STAMP = FileStamp(-1, -1)
Known = tuple[bytes, str]  # what an image is known by whatever its path: its sum and, where there are views, its name


@dataclass
class Survey:
    """What shards have of the n records of a source.

    Attributes:
        source: the dataset, with splits.
        views: that each training image is to have.
        shard: int64 (n), the number of the output's shard that has each record, or -1.
        file, row: int64 (n), where each record's embedding is: a number in `files` and a row of that shard; or -1.
        files: shards, of the output and of other caches, as they were when they were read.
        finished: the shards of the output in which all is as it should be, by number.
        failures: the failures that finished shards record, by number.
        unfinished: the numbers of the other shards of the output.
        rows: number of rows of the output.
        changed: number of those whose image has another content now.
        readable: number of failures of the output whose image can be read now.
        lost: number of rows of the output whose image is not in the source, or not there, any more.
        rewritten: number of rows of the output whose captions, split or id are others now.
    """

    source: Source
    views: int
    shard: NDArray[np.int64] = field(init=False)
    file: NDArray[np.int64] = field(init=False)
    row: NDArray[np.int64] = field(init=False)
    files: list[ShardEntry] = field(default_factory=list)
    finished: dict[int, ShardEntry] = field(default_factory=dict)
    failures: dict[int, list[Failure]] = field(default_factory=dict)
    unfinished: list[int] = field(default_factory=list)
    rows: int = 0
    changed: int = 0
    readable: int = 0
    lost: int = 0
    rewritten: int = 0

    def __post_init__(self) -> None:
        self.shard, self.file, self.row = (np.full(len(self.source.records), NONE, np.int64) for _ in range(3))
        self._spare: dict[Known, tuple[int, int]] = {}  # file and row of images that no path leads to
        self._places: dict[int, int] = {}  # by file, the number of a shard of the output
        self._spare_sizes: set[int] = set()  # of their files

    @cached_property
    def _paths(self) -> PathIndex:
        return PathIndex(self.source.records)  # where nothing exists, it is not needed

    @property
    def is_complete(self) -> bool:
        """Whether the output has all records as they should be, and nothing else."""
        return not self.unfinished and not (self.shard == NONE).any()

    def add_output(self, output: Output, fingerprint: Fingerprint) -> None:
        """Take in the shards of the output. Those that are damaged, or of another recipe, do not count."""
        with Progress("comparing", "images", len(self.source.records)) as progress:
            for number, path in output.numbered_shards():
                try:
                    with open_hdf5(path) as file:
                        entry = describe_shard(path, file)
                        differences = fingerprint.recipe_differences(read_fingerprint(path, file))
                        if differences or file.attrs["shard"] != number:
                            because = differences[0] if differences else f"it is shard {file.attrs['shard']}"
                            logger.warning(f"{path.name} does not count: {because}; give all parts the same settings")
                            continue
                    tables = read_shard(path, embeddings=False)
                except CacheError as error:
                    logger.info(f"{path.name} is rebuilt: {error}")
                    continue
                self._add_shard(number, entry, tables)
                progress.advance(entry.images)

    def add_rows(self, shard: ShardEntry, views: int) -> None:
        """Take in the rows of a shard of another cache, for records that have none.

        Args:
            shard: the shard.
            views: that its training images have.

        Raises:
            CacheError: it is damaged.
        """
        tables, file = read_shard(shard.path, embeddings=False), self._add_file(shard)
        current = self._current(shard.path, tables, [self._first(name, self.file) for name in tables.path], views)
        for row, number in enumerate(current):
            if number is not None and self.file[number] == NONE:
                self.file[number], self.row[number] = file, row
            else:
                self._set_aside(tables, row, file, views)

    def find_by_content(self) -> None:
        """Give images without a row the row of an image with the same content, where there is one."""
        if not self._spare:
            return
        wanted = [number for number in np.flatnonzero(self.file == NONE).tolist() if self._may_be_spare(number)]
        for number, sum_ in zip(wanted, map_in_order(self._sum, wanted, choose_workers()), strict=True):
            known = self._known(sum_ or b"", self.source.records[number].path)
            if known not in self._spare:
                continue
            file, row = self._spare[known]
            if file in self._places:
                if self.shard[number] != NONE:  # it is in another shard
                    continue
                self.shard[number] = self._places[file]  # the place is free, and taken once
                del self._spare[known]
            self.file[number], self.row[number] = file, row

    def _add_shard(self, number: int, entry: ShardEntry, tables: ShardTables) -> None:
        """Take in a shard of the output."""
        records = self.source.records
        owners = [self._first(name, self.shard) for name in tables.path]
        for owner in owners:
            if owner is not None:
                self.shard[owner] = number
        file = self._add_file(entry)
        self._places[file] = number
        current = self._current(entry.path, tables, owners, self.views)
        is_finished = True
        self.rows += len(owners)
        for row, (owner, usable) in enumerate(zip(owners, current, strict=True)):
            if usable is not None:
                self.file[usable], self.row[usable] = file, row
            if owner is None or usable is None:
                is_finished = False
                if owner is None:  # and its place is free
                    self._set_aside(tables, row, file, self.views)
                exists = owner is not None and self._stamp(owner) is not None
                self.changed += exists
                self.lost += not exists
            elif not _says(tables, row, records[owner]):
                is_finished = False
                self.rewritten += 1
        failures = [Failure(*one) for one in zip(tables.failure_path, tables.failure_reason, strict=True)]
        for failure in failures:
            owner = self._first(failure.path, self.shard)
            if owner is not None:
                self.shard[owner] = number
            readable = not failure.reason.startswith(NOT_FINITE) and can_be_loaded(self.source.images, failure.path)
            self.readable += owner is not None and readable
            is_finished &= owner is not None and not readable
        if is_finished:
            self.finished[number], self.failures[number] = entry, failures
        else:
            self.unfinished.append(number)

    def _add_file(self, shard: ShardEntry) -> int:
        self.files.append(shard)
        return len(self.files) - 1

    def _first(self, path: str, taken: NDArray[np.int64]) -> int | None:
        """Return the first record with a path that is not taken."""
        return next((number for number in self._paths.find(path) if taken[number] == NONE), None)

    def _current(self, path: Path, tables: ShardTables, owners: list[int | None], views: int) -> list[int | None]:
        """Return, for each row of a shard, the record that it may be used for: its owner, or None.

        Args:
            path: the shard.
            tables: its tables.
            owners: for each row, the record with its path, or None.
            views: that its training images have.
        """
        written = path.stat().st_mtime_ns
        current: list[int | None] = [None] * len(owners)
        unsure: list[tuple[int, int]] = []
        for row, owner in enumerate(owners):
            if owner is None or not self._has_views(owner, tables, row, views):
                continue
            stamp = self._stamp(owner)
            if stamp is None:
                continue
            if tables.sum is None or tables.file_size is None or tables.file_time is None:  # of version 0.1
                is_current = stamp.time <= written
            else:
                is_current = stamp in (UNKNOWN_STAMP, (tables.file_size[row], tables.file_time[row]))
            if is_current:
                current[row] = owner
            elif tables.sum is not None:
                unsure.append((row, owner))
        sums = map_in_order(self._sum, [owner for _, owner in unsure], choose_workers())
        for (row, owner), found in zip(unsure, sums, strict=True):
            assert tables.sum is not None
            if found == tables.sum[row].tobytes():
                current[row] = owner
        return current

    def _has_views(self, owner: int, tables: ShardTables, row: int, views: int) -> bool:
        """Whether a row has the views that a record is to have."""
        has = views if SPLITS[tables.split[row]] == "train" else 0
        return has >= (self.views if self.source.records[owner].split == "train" else 0)

    def _stamp(self, number: int) -> FileStamp | None:
        """Return the stamp of a record's image; None if it is not there."""
        try:
            return self.source.images.stamp(self.source.records[number].path)
        except ImageError:
            return None
        except OSError:  # a disk that does not answer now; its images stay what they were
            return UNKNOWN_STAMP

    def _sum(self, number: int) -> bytes | None:
        """Return the sum of a record's image; None if it cannot be read."""
        try:
            return read_stamped(self.source.images, self.source.records[number].path)[1].sum
        except ImageError:
            return None

    def _set_aside(self, tables: ShardTables, row: int, file: int, views: int) -> None:
        """Keep a row for an image with the same content under another path."""
        has_views = views if SPLITS[tables.split[row]] == "train" else 0
        if tables.sum is not None and tables.file_size is not None and has_views >= self.views:
            self._spare[self._known(tables.sum[row].tobytes(), tables.path[row])] = file, row
            self._spare_sizes.add(int(tables.file_size[row]))

    def _known(self, sum_: bytes, path: str) -> Known:
        return sum_, PurePosixPath(path).name if self.views else ""  # the name decides what is cropped for the views

    def _may_be_spare(self, number: int) -> bool:
        stamp = self._stamp(number)
        return stamp is not None and stamp.size in self._spare_sizes


def _says(tables: ShardTables, row: int, record: Record) -> bool:
    """Whether a row has the id, the split and the captions of a record."""
    captions = tables.text[tables.first_caption[row] : tables.first_caption[row + 1]]
    same_split = SPLITS[tables.split[row]] == (record.split or "train")
    return same_split and tables.id[row] == storable(record.id) and captions == stored_captions(record)
