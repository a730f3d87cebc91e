"""The store of the policies is in trouble while the broker is well: policies do what their pages say, and recover."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from typing_extensions import override

from patterns.bad_input.stage import Stage
from patterns.stage import WITHIN
from servers import LOOPBACK, RedisServer, Worker, eventually, redis_server

RUN = ("rate_open", "circuit_closed")
"""What runs without the store."""
WAIT = ("rate_closed", "idempotent", "singleton", "bulkhead", "circuit_open")
"""What waits for it."""


@pytest.fixture(scope="module")
def apart() -> Iterator[RedisServer]:
    with redis_server("--maxmemory-policy", "noeviction") as server:
        yield server


@pytest.fixture(scope="module")
def running(redis: RedisServer, apart: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    env = {"CELERY_PATTERNS_STORE_URL": apart.url()}
    with Stage.on(redis, redis.url(0)) as stage, stage.worker(app="guarded:app", concurrency=8, env=env) as worker:
        yield stage, worker


def control(server: RedisServer, *command: object) -> None:
    with server.client() as client:
        client.execute_command(*command)  # type: ignore[no-untyped-call]


class Loading(socketserver.StreamRequestHandler):
    """Answers every command as a Redis does that reads its file."""

    @override
    def handle(self) -> None:
        while self.rfile.readline():
            self.wfile.write(b"-LOADING Redis is loading the dataset in memory\r\n")


@contextmanager
def down(server: RedisServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    server.stop()
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((LOOPBACK, server.port), Loading) as stand_in:
        stand_in.daemon_threads = True
        thread = threading.Thread(target=stand_in.serve_forever, args=(0.05,))
        thread.start()
        yield
        stand_in.shutdown()
        thread.join()
    server.start()


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    control(server, "CONFIG", "SET", "maxmemory", "1")
    yield
    control(server, "CONFIG", "SET", "maxmemory", "0")


@contextmanager
def slow(server: RedisServer) -> Iterator[None]:
    """Longer than the two attempts of five seconds that each question has."""
    control(server, "CLIENT", "PAUSE", 12_000, "ALL")
    yield


Trouble = Callable[[RedisServer], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (down, "Connection refused"),
        (loading, "Redis is loading the dataset in memory"),
        (full, "command not allowed when used memory > 'maxmemory'"),
        (slow, "Timeout reading from"),
    ],
    ids=["down", "loading", "full", "slow"],
)
def test_policies_run_or_wait_and_recover(
    running: tuple[Stage, Worker], apart: RedisServer, request: pytest.FixtureRequest, trouble: Trouble, why: str
) -> None:
    stage, worker = running
    before = len(worker.log())
    case = request.node.callspec.id
    with trouble(apart):
        waiting = {name: stage.send(name, f"{case}-{name}") for name in WAIT}
        for name in RUN:
            stage.wait_done(stage.send(name, f"{case}-{name}"), worker)
        said = worker.log()[before:]
        assert f"the patterns' store ({LOOPBACK}:{apart.port}/0): " in said
        assert why in said
        if case != "slow":  # whose end comes by itself
            assert [stage.ran(f"{case}-{name}") for name in WAIT] == [0] * len(WAIT)
    for task_id in waiting.values():
        stage.wait_done(task_id, worker)
    assert [stage.ran(f"{case}-{name}") for name in (*RUN, *WAIT)] == [1] * len(RUN + WAIT)
    eventually(lambda: worker.state().scheduled == 0, within=WITHIN, what=worker.log)
    stage.wait_idle(worker)
