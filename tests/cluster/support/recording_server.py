"""An HTTP server that stands where a foreign cluster's API server would, and writes down every request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(slots=True)
class ForeignCluster:
    """A cluster that somebody else cares about."""

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of everything that was asked, in order."""

    @property
    def writes(self) -> list[tuple[str, str]]:
        """The requests that would have changed something."""
        return [(method, path) for method, path in self.requests if method in WRITES]


@contextmanager
def foreign_cluster(objects: Mapping[str, Any]) -> Iterator[ForeignCluster]:
    """Yield a server that knows these objects, by path, and takes whatever is written to it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            cluster.requests.append((self.command, path))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            known = objects.get(path, {} if self.command in WRITES else None)
            body = json.dumps(missing if known is None else known).encode()
            self.send_response(404 if known is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - names that the library looks for

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the record is enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster = ForeignCluster(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
