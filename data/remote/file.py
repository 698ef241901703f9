"""One file behind a URL, in a temporary folder while it is read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipcap.data.errors import ClipCapError, SourceError
from clipcap.data.remote.folder import open_url, without_secrets


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Fetch a file, and delete it at the end. Errors that are raised inside name the URL instead of the file.

    Raises:
        SourceError: it cannot be fetched, or is a folder.
    """
    shown = without_secrets(url)
    folder, name = open_url(url)
    if name is None:
        raise SourceError(f"{shown} is a folder; give the URL of a file")
    with tempfile.TemporaryDirectory(prefix="clipcap-") as temporary:
        file = Path(temporary) / "file"
        try:
            folder.download(name, file, folder.entry(name).size)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SourceError(f"{shown} cannot be fetched ({reason}); check the URL and the connection") from None
        try:
            yield file
        except ClipCapError as error:
            raise type(error)(str(error).replace(str(file), shown)) from error
