"""A web server on this machine, for tests: it serves a folder and parts of its files."""

import http.server
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and parts of its files, and its private part only to those with a token."""

    def send_head(self) -> Any:
        if "private" in self.path and "?token=s3cret" not in self.path:
            self.send_error(403)
            return None
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None:
            return super().send_head()
        data = Path(self.translate_path(self.path)).read_bytes()[int(part[1]) : int(part[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder while inside, and yield its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
