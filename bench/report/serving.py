"""`bench report --watch`: the page on this machine alone, made anew whenever a record is added.

The page asks for `state` now and then and loads itself again when that has changed; its view is in the hash and stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.errors import BenchError

HOST = "127.0.0.1"
"""Never another: a page of results is nobody else's to read."""


def state(results: Path) -> str:
    """A digest of which records there are; new records, and those that were replaced, change it."""
    found = []
    for path in sorted(_files(results)):
        with suppress(OSError):  # gone since it was listed, or a link to nowhere
            about = path.stat()
            found.append((str(path.relative_to(results)), about.st_mtime_ns, about.st_size))
    return sha256(repr(found).encode()).hexdigest()


def _files(results: Path) -> list[Path]:
    kinds = ("runs/*/*/*.json", "profiles/*/*.json", "benchmarks/*.json", "imports/*.json")
    return [p for kind in kinds for p in results.glob(kind) if not p.name.startswith(".")]


class Pages:
    """The newest page of a results folder; made when it is asked for, once for each state."""

    def __init__(self, results: Path, render: Callable[[], str]) -> None:
        self.results, self._render = results, render
        self._lock = threading.Lock()
        self._state, self._page = "", b""

    def newest(self) -> bytes:
        """The page, UTF-8.

        Raises:
            BenchError: what `bench.report.render` refuses.
        """
        with self._lock:
            now = state(self.results)
            if now != self._state:
                self._page = self._render().encode()
                self._state = now
            return self._page


def server(pages: Pages, port: int) -> ThreadingHTTPServer:
    """A server that is bound but does not serve yet. port 0: any that is free.

    Raises:
        BenchError: the port is taken or not allowed.
    """

    class Handler(BaseHTTPRequestHandler):
        """GET / and GET /state, for those who ask for this machine by its own name."""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").partition(":")[0]
            if host not in (HOST, "localhost"):  # another site's name that was made to point here
                self._answer(403, b"this page is for this machine alone", "text/plain")
            elif self.path.partition("?")[0] == "/state":
                self._answer(200, state(pages.results).encode(), "text/plain")
            elif self.path.partition("?")[0] == "/":
                try:
                    self._answer(200, pages.newest(), "text/html")
                except BenchError as error:
                    self._answer(500, str(error).encode(), "text/plain")
            else:
                self._answer(404, b"there is only /", "text/plain")

        def _answer(self, code: int, body: bytes, kind: str) -> None:
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)),
                       "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # fmt: skip
            with suppress(ConnectionError):  # the reader has gone
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: the terminal is the user's."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BenchError(f"cannot serve on {HOST}:{port}: {why}; --port 0 takes any that is free") from None
