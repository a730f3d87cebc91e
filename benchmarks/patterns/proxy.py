"""Counts round trips: a loopback proxy that notes each time a client writes after its server has answered.

Redis' own counters cannot tell: they count what a script calls as if clients had sent it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
CHUNK = 65_536
WAKE_SECONDS = 0.05
"""How soon the proxy notices that it is to end."""


@dataclass
class Counter:
    """Round trips seen so far, over all connections."""

    port: int
    trips: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def url(self, db: int = 0) -> str:
        """Return the URL of one of the Redis' databases, by way of the proxy."""
        return f"redis://{LOOPBACK}:{self.port}/{db}"


@contextlib.contextmanager
def counting_proxy(port: int) -> Iterator[Counter]:
    """Stand before the server on a loopback port."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        counter = Counter(port=int(listening.getsockname()[1]))
        thread = threading.Thread(target=_serve, args=(listening, port, counter), name="proxy", daemon=True)
        thread.start()
        try:
            yield counter
        finally:
            counter.ended.set()
            thread.join(5)


def _serve(listening: socket.socket, port: int, counter: Counter) -> None:
    """Carry bytes to and fro until the end; one thread, since a benchmark's few connections need no more."""
    others: dict[socket.socket, socket.socket] = {}
    clients: dict[socket.socket, bool] = {}
    """Client's socket -> whether its next bytes begin a round trip."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        selector.register(listening, selectors.EVENT_READ)
        while not counter.ended.is_set():
            for key, _ in selector.select(WAKE_SECONDS):
                source = key.fileobj
                if source is listening:
                    client = stack.enter_context(listening.accept()[0])
                    server = stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=5))
                    others[client], others[server], clients[client] = server, client, True
                    for each in (client, server):
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        selector.register(each, selectors.EVENT_READ)
                elif isinstance(source, socket.socket):
                    other = others[source]
                    if not _carry(source, other):
                        for each in (source, other):
                            with contextlib.suppress(KeyError, ValueError):
                                selector.unregister(each)
                            each.close()
                    elif source in clients:
                        counter.trips += clients[source]
                        clients[source] = False
                    else:
                        clients[other] = True


def _carry(source: socket.socket, other: socket.socket) -> bool:
    """Pass on what has come; False if one of the two has closed."""
    try:
        data = source.recv(CHUNK)
        if data:
            other.sendall(data)
    except OSError:
        return False
    return bool(data)
