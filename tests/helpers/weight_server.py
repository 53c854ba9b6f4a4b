"""A web server for tests of downloads: it knows ranges, and it can break off, lie and change its file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server sends, and what it was asked.

    breaks_after   bytes of a body after which the connection is closed; None: never
    ranges         whether it knows ranges
    tag            its ETag
    asked          (range, condition) of each request
    """

    content: bytes
    breaks_after: int | None = None
    ranges: bool = True
    tag: str | None = '"one"'
    status: int | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(content: bytes) -> Iterator[Served]:
    """A server of this content on a free port, until the body ends."""
    served = Served(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            served.asked.append((wanted, condition))
            if served.status is not None:
                self.send_error(served.status)
                return
            start = 0
            if wanted and served.ranges and condition in (None, served.tag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(served.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(served.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            body = served.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
            if served.tag:
                self.send_header("ETag", served.tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if served.breaks_after is None else body[: served.breaks_after])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/weights.bin"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
