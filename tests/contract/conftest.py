"""Servers of the contract tests; of the real ones, which are shared, each test gets names of its own."""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.backends.redis import RedisBackend

from celery_operator.adapters.connections import CeleryConnections
from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.result_backend import RedisResultBackend
from celery_operator.services.ports import Clock
from contract.api_server import ApiServer
from contract.publishing import StoppedClock
from servers import LOOPBACK, RabbitKind, RabbitServer, RedisKind, RedisServer


@pytest.fixture(scope="session")
def redis(redis_of: Callable[[RedisKind], RedisServer], redis_kind: RedisKind) -> RedisServer:
    """Return a Redis that stays up."""
    return redis_of(redis_kind)


@pytest.fixture(scope="session")
def rabbitmq(rabbit_of: Callable[[RabbitKind], RabbitServer], rabbit_kind: RabbitKind) -> RabbitServer:
    """Return a RabbitMQ that stays up."""
    return rabbit_of(rabbit_kind)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Return what gives the URL of a broker of a kind; of a Redis the database may be told."""

    def url(kind: RedisKind | RabbitKind, db: int = 0) -> str:
        if isinstance(kind, RabbitKind):
            rabbit_of: Callable[[RabbitKind], RabbitServer] = request.getfixturevalue("rabbit_of")
            return rabbit_of(kind).url()
        redis_of: Callable[[RedisKind], RedisServer] = request.getfixturevalue("redis_of")
        return redis_of(kind).url(db)

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
def clock() -> Clock:
    """Return the clock of the operator's connections, which stands still here."""
    return StoppedClock()


@pytest.fixture
async def connections(clock: Clock) -> AsyncIterator[CeleryConnections]:
    """Return the operator's connections to brokers and result backends."""
    opened = CeleryConnections(clock)
    yield opened
    await opened.close_all()


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
