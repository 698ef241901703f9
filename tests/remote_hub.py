"""A store behind a URL, for tests: it counts what is asked of it, and can fail."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class Hub(AbstractFileSystem):  # type: ignore[misc]
    """Files in memory that are read as those of most stores are: ranges of bytes, through a buffered file.

    The state belongs to the class, since fsspec makes the instances. `new_hub` gives a class of its own to a test.
    """

    protocol = ("hub", "hf")
    root_marker = ""
    cachable = False
    files: ClassVar[dict[str, bytes]]
    etags: ClassVar[dict[str, str]]
    requests: ClassVar[Counter[str]]  # by path
    sent: ClassVar[Counter[str]]  # bytes by path
    failures: ClassVar[dict[str, list[Exception]]]  # of the next requests, by path
    lock: ClassVar[threading.Lock]

    @classmethod
    def add(cls, folder: Path, name: str) -> None:
        """Add the files below a local folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                cls.files[f"{name}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()

    def send(self, path: str, start: int, end: int | None) -> bytes:
        with self.lock:
            self.requests[path] += 1
            if self.failures.get(path):
                raise self.failures[path].pop(0)
            data = self.files[path][start:end]
            self.sent[path] += len(data)
            return data

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path).rstrip("/")
        prefix = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            child, _, rest = name.removeprefix(prefix).partition("/")
            if name == path or (name.startswith(prefix) and not rest):
                etag = self.etags.get(name, "1")
                found[name] = {"name": name, "size": len(content), "type": "file", "etag": etag}
            elif name.startswith(prefix):
                found[prefix + child] = {"name": prefix + child, "size": 0, "type": "directory"}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **options: Any) -> "HubFile":
        if path not in self.files:
            raise FileNotFoundError(path)
        return HubFile(self, path, mode, size=len(self.files[path]), **options)


class HubFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of a `Hub`."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        sent: bytes = self.fs.send(self.path, start, end)
        return sent


def new_hub() -> type[Hub]:
    """Return a hub without files."""
    state: dict[str, Any] = {"files": {}, "etags": {}, "requests": Counter(), "sent": Counter(), "failures": {}}
    return type("NewHub", (Hub,), {**state, "lock": threading.Lock()})
