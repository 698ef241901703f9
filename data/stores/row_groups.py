"""Row groups of Parquet files, one column of them, shared by the threads that need the same one at the same time.

A group is the smallest part of a file that can be read, and may have a thousand images. Each thread keeps the group
that it used last, and all of them the two that were read last. Threads that load neighbouring images need the same
group, which is then read once for all of them, also for one that comes late: this matters where a file is behind a URL.
"""

import threading
import weakref
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from clipcap.data.errors import ImageError


class RowGroup:
    """One column of a row group.

    Attributes:
        file: the name of its file.
        rows: the numbers of its rows in the file.
        values: a `pyarrow.ChunkedArray` of as many values.
    """

    def __init__(self, file: str, rows: range, values: Any) -> None:
        self.file = file
        self.rows = rows
        self.values = values


class RowGroups:
    """Finds the row group that a row is in, and reads it unless a thread has it.

    Args:
        column: that is read.
        open_file: returns the `pyarrow.parquet.ParquetFile` of a name.
    """

    def __init__(self, column: str, open_file: Callable[[str], Any]) -> None:
        self._column = column
        self._open = open_file
        self._last = threading.local()
        self._lock = threading.Lock()  # of the four below
        self._starts: dict[str, list[int]] = {}  # by file: the first row of each group, and the number of rows
        self._kept: weakref.WeakValueDictionary[tuple[str, int], RowGroup] = weakref.WeakValueDictionary()
        self._newest: deque[RowGroup] = deque(maxlen=2)
        self._reading: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)

    def value(self, file: str, row: int) -> Any:
        """Return the value in a row of a file, rows counted from 0, as a Python object.

        Raises:
            ImageError: there is no such row.
            Exception: what `open_file` and pyarrow raise.
        """
        group: RowGroup | None = getattr(self._last, "group", None)
        if group is None or group.file != file or row not in group.rows:
            group = self._last.group = None  # frees the memory of the old group
            group = self._last.group = self._group(file, row)
        return group.values[row - group.rows.start].as_py()

    def _group(self, file: str, row: int) -> RowGroup:
        starts = self._find_starts(file)
        number = bisect_right(starts, row) - 1
        if not 0 <= number < len(starts) - 1:
            raise ImageError("there is no such row")
        key = file, number
        with self._lock:
            reading = self._reading[key]
        with reading:
            with self._lock:
                group = self._kept.get(key)
            if group is None:
                with self._open(file) as opened:
                    table = opened.read_row_group(number, columns=[self._column], use_threads=False)
                group = RowGroup(file, range(starts[number], starts[number + 1]), table.column(self._column))
                with self._lock:
                    self._kept[key] = group
                    self._newest.append(group)
        return group

    def _find_starts(self, file: str) -> list[int]:
        starts = self._starts.get(file)
        if starts is None:
            with self._open(file) as opened:
                sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
            starts = self._starts[file] = list(accumulate(sizes, initial=0))
        return starts
