"""The mirror: a temporary folder that readers read instead of a URL, and the way from its files to their content."""

import errno
import io
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any

from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import ImageError, SourceError
from clipcap.data.image_store import MAX_BYTES, Files
from clipcap.data.readers.finder import is_image
from clipcap.data.remote.folder import Entry, RemoteFile, open_url
from clipcap.data.remote.holes import copy_with_holes

logger = logging.getLogger(__name__)

_TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".txt")
_ARRAYS = (".npy", ".npz", ".pkl", ".pickle")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_TABLES = (".parquet",)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_THREADS = 16  # that fetch captions
# Bytes that are read at once. The headers of a tar have images of 100 KB between them, the columns of a table have far
# more.
_TAR_BUFFER, _TABLE_BUFFER = 4 << 20, 1 << 16
_TIMES = 1 << 60  # nanoseconds, which any file system can store as a time


class Mirror(Files):
    """A dataset behind a URL, as readers see it. The folder is deleted when nothing uses it any more.

    Args:
        url: of a folder or a file.

    Attributes:
        path: what a reader reads: the temporary folder, or the file in it.
        notes: what was left out, one sentence each.

    Raises:
        SourceError: the URL cannot be read, or the disk is full.
    """

    def __init__(self, url: str) -> None:
        self._remote, file = open_url(url)
        self.notes: list[str] = []
        try:
            self._root = Path(tempfile.mkdtemp(prefix="clipcap-"))
            weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
            self.path = self._root if file is None else self._root / file
            logger.info(f"{self._remote.url}: listing its files")
            entries = self._make_files(self._list(file))
            names = list(_needed(entries)) if file is None else [file]
            self._fetch({name: entries[name] for name in names if name in entries})
            for name, entry in entries.items():
                # Size and time tell whether a file is still the same, also where the server knows no time.
                time = entry.version % _TIMES
                os.utime(self._root / name, ns=(time, time))
        except OSError as error:
            raise self._failure(self._remote.url, error) from None

    def named(self, text: str) -> str:
        """Return a text of a reader with the URL instead of the temporary folder."""
        return text.replace(str(self._root), self._remote.url)

    def read(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise ImageError(f"{size:,} bytes: too large for an image")
            return self._remote.read(self._name(path))
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error
        except ValueError as error:
            raise ImageError("its name holds a NUL character") from error

    def read_part(self, path: Path, offset: int, size: int) -> bytes:
        if size > MAX_BYTES:
            raise ImageError(f"{size:,} bytes: too large for an image")
        try:
            data = self._remote.read_part(self._name(path), offset, size)
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error
        if len(data) < size:
            raise ImageError(f"{path.name} ends before it does")
        return data

    def open(self, path: Path) -> Any:
        return RemoteFile(self._remote, self._name(path), path.stat().st_size)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _list(self, file: str | None) -> dict[str, Entry]:
        """Return the files below the folder; or the file, with those below its folder if its images may be among them.

        Raises:
            OSError: the folder cannot be listed.
            SourceError: it holds no files.
        """
        if file is None:
            entries = self._remote.entries()
            if not entries:
                raise SourceError(f"{self._remote.url} holds no files, or cannot be listed; check the URL")
            return entries
        entries = {}
        if not file.lower().endswith(_TARS + _ARRAYS):
            try:
                entries = self._remote.entries()
            except OSError as error:
                self.notes.append(f"{self._remote.url} cannot be listed ({error}), so no other files in it are found")
        return entries | {file: self._remote.entry(file)}

    def _make_files(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Make an empty file of the right size for each entry that is not hidden, and return these entries."""
        made: dict[str, Entry] = {}
        left_out = []
        folders = set()
        for name, entry in entries.items():
            parts = name.split("/")
            target = self._root / name
            a_stream = os.name == "nt" and ":" in name  # Windows takes `a:b` for a part of the file `a`
            if not _stays_inside(parts) or not target.is_relative_to(self._root) or a_stream:
                left_out.append(name)
                continue
            if any(part.startswith(".") for part in parts):
                continue
            try:
                if target.parent not in folders:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    folders.add(target.parent)
                with target.open("xb") as new:
                    new.truncate(entry.size or 0)
            except (OSError, ValueError) as error:  # two names that are one here, too long a name, ...
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise
                left_out.append(name)
                continue
            made[name] = entry
        if left_out:
            self.notes.append(f"files whose name cannot be used here: {len(left_out):,} (such as {left_out[0]!r:.80})")
        return made

    def _fetch(self, entries: Mapping[str, Entry]) -> None:
        """Fetch what readers read of some files.

        Raises:
            SourceError: a file cannot be fetched, or the disk is full.
        """
        wanted = {name: entry for name, entry in entries.items() if entry.size != 0}
        if wanted:
            logger.info(f"{self._remote.url}: reading names and captions from {plural(len(wanted), 'file')}")
        with (
            Progress("reading", "files", len(wanted)) as progress,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            fetched = [pool.submit(self._fetch_file, name, entry) for name, entry in wanted.items()]
            try:
                for one in as_completed(fetched):
                    one.result()
                    progress.advance()
            except BaseException:
                self._remote.stopped = True
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_file(self, name: str, entry: Entry) -> None:
        target = self._root / name
        is_tar = name.lower().endswith(_TARS)
        try:
            if not is_tar and not name.lower().endswith(_TABLES):
                self._remote.download(name, target, entry.size)
                return
            size = self._remote.entry(name).size if entry.size is None else entry.size
            if size is None:
                raise OSError("the server does not say its size; download it")
            os.truncate(target, size)
            raw = RemoteFile(self._remote, name, size)
            with io.BufferedReader(raw, _TAR_BUFFER if is_tar else _TABLE_BUFFER) as file:
                copy_with_holes(file, target)
        except OSError as error:
            raise self._failure(f"{self._remote.url}/{name}", error) from None

    def _failure(self, place: str, error: OSError) -> SourceError:
        if error.errno in _FULL:
            return SourceError(f"{tempfile.gettempdir()} is full; set TMPDIR to a folder with room for the captions")
        return SourceError(f"{place} cannot be read ({error.strerror or error}); check the URL and the connection")


def _needed(names: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the files of a folder that readers open."""
    images = {str(PurePosixPath(name).with_suffix("")) for name in names if is_image(name)}
    for name in names:
        lower = name.lower()
        # The .json that img2dataset writes beside an image has no more captions than the .txt.
        beside_image = lower.endswith(".json") and str(PurePosixPath(name).with_suffix("")) in images
        if lower.endswith(_TARS + _TABLES + (() if images else _ARRAYS)) or (
            lower.endswith(_TEXTS) and not beside_image
        ):
            yield name


def _stays_inside(parts: list[str]) -> bool:
    return not any(part in ("", ".", "..") for part in parts)
