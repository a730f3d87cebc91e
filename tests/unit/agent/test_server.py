"""The agent's server stays reachable, whatever its clients do and however short the process is of threads."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_patterns import protocol
from celery_patterns.agent import native, server
from celery_patterns.agent.server import AgentServer, Token
from servers import LOOPBACK, eventually


class Alive:
    """Answers as an agent whose worker has begun."""

    metrics: Any = None

    def state(self) -> protocol.WorkerState:
        return protocol.WorkerState(hostname="w", slots=1, active=0, reserved=0, scheduled=0)

    def has_started(self) -> bool:
        return True

    def stalled_seconds(self) -> float | None:
        return None

    def ask(self, *, draining: bool) -> None:
        raise AssertionError(f"nobody asks for {draining=}")


@pytest.fixture
def agent() -> Iterator[AgentServer]:
    serving = AgentServer(LOOPBACK, 0, Alive(), Token(None))
    serving.start()
    yield serving
    serving.socket.shutdown(socket.SHUT_RDWR)
    serving.socket.close()


def is_alive(agent: AgentServer) -> bool:
    connection = http.client.HTTPConnection(agent.address, timeout=10)
    try:
        connection.request("GET", protocol.PATH_LIVE)
        return connection.getresponse().status == 200
    except OSError:
        return False
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def test_a_thread_that_cannot_be_started_costs_one_request(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = native.Thread.start
    failures = 3

    def short_of_threads(thread: native.Thread) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(native.Thread, "start", short_of_threads)
    assert [is_alive(agent) for _ in range(4)] == [False, False, False, True]
    eventually(lambda: agent._open == {}, what="the last connection's end, a moment after its answer")


def test_clients_that_send_a_byte_now_and_then_hold_up_no_probe(
    agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes within the socket's timeout; the whole request never does."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.5)
    host, _, port = agent.address.rpartition(":")
    clients = [socket.create_connection((host, int(port)), timeout=10) for _ in range(server.MAX_CONNECTIONS)]
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.05):
            for client in clients:
                try:
                    client.send(b"x")
                except OSError:
                    continue

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        eventually(lambda: len(agent._open) == server.MAX_CONNECTIONS, what="all places to be taken")
        eventually(lambda: is_alive(agent), what="a probe to be answered")
    finally:
        ended.set()
        dripping.join()
        for client in clients:
            client.close()
