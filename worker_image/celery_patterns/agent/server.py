"""The agent's HTTP endpoints: probes, state, metrics, drain and resume. No request ever talks to the broker."""

from __future__ import annotations

import functools
import hmac
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Protocol

from celery_patterns import protocol
from celery_patterns.agent import metrics, native

logger = native.Logger(__name__)

REQUEST_SECONDS = 5.0
"""A client that is silent for so long is cut off; one whose request takes longer, as soon as its place is needed."""
MAX_BODY_BYTES = 4096
"""No endpoint reads a body; a small one is thrown away, a larger one refused."""
MAX_CONNECTIONS = 32
"""Requests served at a time; probes, a scrape and the operator are a handful."""
ACCEPT_RETRY_SECONDS = 0.1
"""Pause after a connection that could not be accepted, as when the process has no file descriptor left."""


class Answers(Protocol):
    """What the server asks of the agent."""

    metrics: metrics.Metrics

    def state(self) -> protocol.WorkerState:
        """Return the worker's state."""
        ...

    def has_started(self) -> bool:
        """Whether it consumes, or was told not to."""
        ...

    def stalled_seconds(self) -> float | None:
        """Return how long its loop has stood still if that is too long."""
        ...

    def ask(self, *, draining: bool) -> None:
        """Begin or end draining."""
        ...


class Token:
    """The bearer token of the endpoints that change a worker, read again whenever its file changes."""

    def __init__(self, file: str | None) -> None:
        self._file = Path(file) if file else None
        self._stamp: tuple[int, int, int] | None = None
        self._value = b""

    def refusal(self, authorization: str | None) -> tuple[int, str] | None:
        """Return (status, sentence) if the header does not carry the token, else None."""
        expected = self._read()
        if not expected:
            return 403, f"this worker has no token: the variable {protocol.ENV_AGENT_TOKEN_FILE} names no readable file"
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return 401, "this endpoint needs the header Authorization: Bearer <the pool's token>"
        if not hmac.compare_digest(given.strip().encode(), expected):
            return 403, "the token is not this pool's"
        return None

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._value = self._file.read_bytes().strip()
                self._stamp = stamp
        except OSError:
            return b""
        return self._value


class AgentServer(HTTPServer):
    """Listens as soon as it is made, and serves each connection in a thread of its own, also beside greenlets.

    Raises:
        OSError: If the address cannot be listened on; the message names it.
    """

    request_queue_size = 64

    def __init__(self, host: str, port: int, answers: Answers, token: Token) -> None:
        self.answers = answers
        self.token = token
        self._lock = native.new_lock()
        self._open: dict[Any, float] = {}
        """The connections that are served, and since when."""
        self._pid = os.getpid()
        self.address_family = socket.AF_INET6 if _dual_stack(host) or ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler, bind_and_activate=False)
            self.socket.close()
            self.socket = native.Socket(self.address_family, self.socket_type)
            self.server_bind()
            self.server_activate()
        except OSError as error:
            raise OSError(
                f"the agent cannot listen on {host or '*'}:{port} (variables {protocol.ENV_AGENT_HOST} and "
                f"{protocol.ENV_AGENT_PORT}): {error}"
            ) from error
        self._thread = native.Thread(self._accept_forever, name="celery-patterns-http")

    @property
    def address(self) -> str:
        """``host:port`` for clients on this machine."""
        host, port = self.server_address[:2]
        name = "127.0.0.1" if host in ("", "0.0.0.0", "::") else str(host)  # noqa: S104 - compared, not bound
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def start(self) -> None:
        """Serve from a thread of its own."""
        self._thread.start()

    def close_in_child(self) -> None:
        """Close a forked child's copy of the socket: the port must be free as soon as the main process is gone."""
        if os.getpid() != self._pid:
            self.socket.close()

    def server_bind(self) -> None:  # type: ignore[explicit-override]
        """Bind; with IPv6, accept IPv4 too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def _accept_forever(self) -> None:
        while True:
            try:
                request, client_address = native.accept(self.socket)
            except OSError as error:
                logger.debug("the agent could not accept a connection: %s", error)
                native.sleep(ACCEPT_RETRY_SECONDS)
                continue
            if not self._admit(request):
                self.shutdown_request(request)
                continue
            serve = functools.partial(self._serve, request, client_address)
            try:
                native.Thread(serve, name="celery-patterns-request").start()
            except RuntimeError as error:  # no further thread to be had; the next probe may find one
                logger.debug("the agent could not serve a connection: %s", error)
                self._dismiss(request)

    def _admit(self, request: Any) -> bool:
        """Give a connection a place: a free one, or that of one whose request is overdue."""
        now = time.monotonic()
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                for overdue in [each for each, since in self._open.items() if now - since > REQUEST_SECONDS]:
                    del self._open[overdue]
                    _cut_off(overdue)
            admitted = len(self._open) < MAX_CONNECTIONS
            if admitted:
                self._open[request] = now
        return admitted

    def _dismiss(self, request: Any) -> None:
        """Close a connection and free its place."""
        self.shutdown_request(request)
        with self._lock:
            self._open.pop(request, None)

    def _serve(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - clients come and go
            self.handle_error(request, client_address)
        finally:
            self._dismiss(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # type: ignore[explicit-override] # noqa: ARG002
        """Note a broken connection; clients come and go."""
        logger.debug("a client of the agent went away: %s: %s", client_address, sys.exc_info()[1])


def _cut_off(request: Any) -> None:
    """End a connection under whoever reads from it."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has just ended


def _dual_stack(host: str) -> bool:
    return host in ("", "::") and socket.has_dualstack_ipv6()


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, one connection."""

    server: AgentServer
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # the answer leaves in one piece
    server_version = "celery-patterns-agent"
    sys_version = ""

    def do_GET(self) -> None:
        """Probes, state and metrics."""
        self._route(
            {
                protocol.PATH_STARTUP: self._startup,
                protocol.PATH_READY: self._ready,
                protocol.PATH_LIVE: self._live,
                protocol.PATH_STATE: lambda: self._json(200, self.server.answers.state().to_json()),
                protocol.PATH_METRICS: self._metrics,
            }
        )

    def do_POST(self) -> None:
        """Drain and resume."""
        self._route(
            {
                protocol.PATH_DRAIN: lambda: self._change(draining=True),
                protocol.PATH_RESUME: lambda: self._change(draining=False),
            }
        )

    def _route(self, routes: dict[str, Callable[[], None]]) -> None:
        if not self._discard_body():
            return
        answer = routes.get(self.path.partition("?")[0])
        if answer is None:
            known = ", ".join(routes)
            self._json(404, {"error": f"there is nothing at {self.command} {self.path[:100]}; known: {known}"})
            return
        try:
            answer()
        except OSError:
            raise  # the client went away
        except Exception as error:
            logger.exception("the agent could not answer %s %s", self.command, self.path[:100])
            self._json(500, {"error": f"{type(error).__name__}: {error}"})

    def _discard_body(self) -> bool:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > MAX_BODY_BYTES or self.headers.get("Transfer-Encoding"):
            self._json(413, {"error": f"a request's body may have at most {MAX_BODY_BYTES} bytes, with Content-Length"})
            return False
        self.rfile.read(int(length))
        return True

    def _startup(self) -> None:
        started = self.server.answers.has_started()
        self._json(200 if started else 503, {"started": started})

    def _ready(self) -> None:
        state = self.server.answers.state()
        self._json(200 if state.ready else 503, {"ready": state.ready, "draining": state.draining})

    def _live(self) -> None:
        stalled = self.server.answers.stalled_seconds()
        if stalled is None:
            self._json(200, {"live": True})
        else:
            self._json(503, {"live": False, "error": f"the worker's main loop has stood still for {stalled:.0f} s"})

    def _metrics(self) -> None:
        self._answer(200, self.server.answers.metrics.text(), metrics.CONTENT_TYPE)

    def _change(self, *, draining: bool) -> None:
        refusal = self.server.token.refusal(self.headers.get("Authorization"))
        if refusal is not None:
            self._json(refusal[0], {"error": refusal[1]})
            return
        self.server.answers.ask(draining=draining)
        self._json(200, self.server.answers.state().to_json())

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # type: ignore[explicit-override] # noqa: A002 - the standard library's name
        """Log nothing: probes come every few seconds."""
