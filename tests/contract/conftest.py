"""Servers of the contract tests; of the real ones, which are shared, each test gets names of its own."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend

from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.result_backend import RedisResultBackend
from contract.api_server import ApiServer
from servers import LOOPBACK, RabbitServer, RedisKind, RedisServer, rabbitmq_server, redis_server
from servers_kinds import kind_named


@pytest.fixture(scope="session")
def redis_of() -> Iterator[Callable[[RedisKind], RedisServer]]:
    """Return what gives a Redis of a kind; each is started once, and stays up."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(redis_server(kind=kind)))


@pytest.fixture(scope="session")
def redis(redis_of: Callable[[RedisKind], RedisServer], redis_kind: RedisKind) -> RedisServer:
    """Return a Redis that stays up."""
    return redis_of(redis_kind)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitServer]:
    """Return a RabbitMQ that stays up."""
    with rabbitmq_server() as server:
        yield server


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Return what gives the URL of a broker by its name: a kind of Redis, whose database may be told, or rabbitmq."""

    def url(name: str, db: int = 0) -> str:
        if name == "rabbitmq":
            rabbit: RabbitServer = request.getfixturevalue("rabbitmq")
            return rabbit.url()
        redis_of: Callable[[RedisKind], RedisServer] = request.getfixturevalue("redis_of")
        return redis_of(kind_named(name)).url(db)

    return url


@pytest.fixture
def queue() -> str:
    """Return a queue's name that nobody else uses."""
    return f"q-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return the port of a server that accepts connections and never says a word, as behind a broken balancer."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


@pytest.fixture
async def backend(redis: RedisServer) -> AsyncIterator[RedisResultBackend]:
    """Return the operator's side of a result backend."""
    opened = RedisResultBackend(redis.url(8))
    yield opened
    await opened.close()


@pytest.fixture
def celery_backend(redis: RedisServer) -> Iterator[RedisBackend]:
    """Return Celery's own backend, as it is inside a worker."""
    app = Celery("worker", backend=redis.url(8), set_as_current=False)
    yield app.backend
    app.backend.client.close()
    app.close()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    """Return an API server in this process."""
    async with ApiServer() as serving:
        yield serving


@pytest.fixture
async def api(server: ApiServer, tmp_path: Path) -> AsyncIterator[ApiConnection]:
    """Return a connection to it."""
    opened = await ApiConnection.open(server.kubeconfig(tmp_path))
    yield opened
    await opened.close()
