"""A folder behind a URL, through fsspec: what is in it, and the content of its files.

A failed request is tried again. What fails for good is an `OSError`, as with a local file; its message is one line
without secrets.
"""

import errno
import hashlib
import io
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from clipcap.data.errors import SourceError, one_line

PAUSES = (0.5, 2.0)  # seconds before each further try
_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError)
_LONGEST_REASON = 160  # characters
_USER = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?\S*")
_ANNOTATIONS = "annotations"  # COCO's images are beside this folder
_PACKAGES = {"smbclient": "smbprotocol", "libarchive": "libarchive-c"}  # of modules of another name
T = TypeVar("T")


class RemoteError(OSError):
    """A request failed for good. The message is one line without secrets."""


class Entry(NamedTuple):
    """What a listing says of a file.

    Attributes:
        size: in bytes, or None if it does not say.
        version: changes when the file does, as far as the listing shows: a hash over its time, ETag and the like.
    """

    size: int | None
    version: int


class RemoteFolder:
    """A folder behind a URL. Several threads may use it at once.

    Names are relative to the folder, with forward slashes.

    Attributes:
        url: of the folder, without secrets.
        stopped: whether requests fail from now on. Threads that are reading end soon when another thread sets it.
    """

    def __init__(self, filesystem: Any, root: str, url: str, secrets: list[str], query: str = "") -> None:
        self.url = url
        self.stopped = False
        self._filesystem = filesystem
        self._root = root
        self._secrets = secrets
        self._query = query
        self._is_http = _is_http(root)
        # fsspec's own files read 5 MB ahead, which is in vain for an image in a tar. Asynchronous ones read no files.
        self._options = {} if filesystem.async_impl else {"cache_type": "none"}

    def entries(self) -> dict[str, Entry]:
        """Return what is known of all files below the folder, by name.

        Raises:
            OSError: it cannot be listed.
        """
        found = self._attempt(self._filesystem.find, self._root, detail=True)
        prefix = f"{self._root}/" if self._root else ""
        entries = {}
        for key, info in found.items():
            name = key[len(prefix) :].lstrip("/")
            if not key.startswith(prefix) or info.get("type") != "file":
                continue
            if self._is_http:
                if "?" in name:  # a link that sorts the page
                    continue
                name = unquote(name)
            entries[name] = Entry(info.get("size"), _version(info))
        return entries

    def entry(self, name: str) -> Entry:
        """Return what is known of one file.

        Raises:
            OSError: there is no such file, or the server does not answer.
        """
        info = self._attempt(self._filesystem.info, self._key(name))
        return Entry(info.get("size"), _version(info))

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: it cannot be fetched.
        """
        return bytes(self._attempt(self._filesystem.cat_file, self._key(name), **self._options))

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from `offset` on, or fewer if it ends before.

        Raises:
            OSError: they cannot be fetched.
        """
        if size <= 0:
            return b""
        data = self._attempt(
            self._filesystem.cat_file, self._key(name), start=offset, end=offset + size, **self._options
        )
        if len(data) > size:
            raise RemoteError("the server sends whole files only; download this one")
        return bytes(data)

    def download(self, name: str, target: Path, size: int | None) -> None:
        """Write the content of a file to a local one.

        Args:
            name: of the file.
            target: the local file.
            size: in bytes, where it is known.

        Raises:
            OSError: it cannot be fetched, or not all of it; or the disk is full.
        """

        def fetch() -> None:
            self._filesystem.get_file(self._key(name), str(target))
            if size is not None and target.stat().st_size != size:
                raise OSError(f"{target.stat().st_size:,} of {size:,} bytes arrived")

        self._attempt(fetch)

    def _key(self, name: str) -> str:
        """Return the name of a file as the file system has it."""
        name = quote(name) + self._query if self._is_http else name
        return f"{self._root}/{name}" if self._root else name

    def _attempt(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self.stopped:
            raise RemoteError("stopped")
        return _attempt(self._secrets, function, *arguments, **options)


class RemoteFile(io.RawIOBase):
    """A file of a remote folder, as a file that is open for reading. It keeps nothing, and reads what is asked for.

    Args:
        folder: that has it.
        name: in the folder.
        size: in bytes.
    """

    def __init__(self, folder: RemoteFolder, name: str, size: int) -> None:
        self._folder = folder
        self._name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        data = self._folder.read_part(self._name, self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_url(url: str) -> tuple[RemoteFolder, str | None]:
    """Find what a URL stands for.

    HTTP knows no folders: there, a URL whose last name has no suffix, or that ends with a slash, stands for one.

    Returns:
        A folder and None; or the folder of a file, and the file's name in it. For COCO's captions, that is the folder
        of the dataset.

    Raises:
        SourceError: there is nothing at the URL, no such protocol, the package for it is missing, or the server does
            not answer.
    """
    import fsspec.core

    secrets = _secrets(url)
    shown = re.sub(r"(?<![:/])/+$", "", _without_secrets(url, secrets))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # the file systems raise errors of many classes
        if isinstance(error, ImportError) and isinstance(error.__cause__, ModuleNotFoundError):
            module = str(error.__cause__.name).partition(".")[0]
            package = _PACKAGES.get(module, module)
            raise SourceError(
                f"{shown} needs the package {package}, which is missing: pip install {package}"
            ) from error
        reason = _without_secrets(one_line(error), secrets)[:_LONGEST_REASON]
        fact = f"{shown} cannot be opened ({reason})"
        raise SourceError(f"{fact}; give a URL of a protocol of fsspec: hf, s3, gs, https, ...") from None
    try:
        kind = _attempt(secrets, filesystem.info, path)["type"]
    except FileNotFoundError:
        raise SourceError(f"{shown} does not exist, or is private; check the URL, or sign in") from None
    except OSError as error:
        raise SourceError(f"{shown} cannot be read ({error}); check the URL and the connection") from None
    is_folder, query = kind == "directory", ""
    if _is_http(path):
        path, mark, query = path.partition("?")
        query = mark + query
        is_folder = path.endswith("/") or not PurePosixPath(urlsplit(path).path).suffix
    if is_folder:
        return RemoteFolder(filesystem, path.rstrip("/"), shown, secrets, query), None
    folder, _, name = path.rpartition("/")
    if folder.rpartition("/")[2] == _ANNOTATIONS:
        folder, name = folder.rpartition("/")[0], f"{_ANNOTATIONS}/{name}"
    base = shown.removesuffix(_without_secrets(name, secrets)).rstrip("/")
    return RemoteFolder(filesystem, folder, base, secrets, query), unquote(name) if _is_http(path) else name


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown."""
    return _without_secrets(url, _secrets(url))


def _attempt(secrets: list[str], function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function of a file system, several times if it fails in a way that may pass."""
    for pause in (*PAUSES, None):
        try:
            return function(*arguments, **options)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "there is no such file") from None
        except Exception as error:  # the file systems raise errors of many classes
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, error.strerror) from None
            if pause is None or isinstance(error, _FINAL):
                # Without its cause: a traceback would show the secrets.
                raise RemoteError(_without_secrets(one_line(error), secrets)[:_LONGEST_REASON]) from None
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _is_http(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _version(info: dict[str, Any]) -> int:
    text = repr(sorted(info.items(), key=lambda item: item[0]))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def _secrets(url: str) -> list[str]:
    """Return the parts of a URL that may be secret, the longest first, as they are written and as they are meant."""
    users = [user.rstrip("@") for user in _USER.findall(url)]
    queries = [query[1:] for query in _QUERY.findall(url)]
    values = [value for query in queries for _, value in parse_qsl(query)]
    passwords = [user.partition(":")[2] for user in users]
    found = {text for part in (*users, *passwords, *queries, *values) for text in (part, unquote(part))}
    return sorted(filter(None, found), key=len, reverse=True)


def _without_secrets(text: str, secrets: list[str]) -> str:
    text = _QUERY.sub("", _USER.sub("", text)) if "://" in text else text
    for secret in secrets:
        if len(secret) > 3:  # a shorter one would be a part of words
            text = text.replace(secret, "...")
    return text
