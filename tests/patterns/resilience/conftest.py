"""A real Redis for each module, emptied for each test, and stores on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery import Celery

from celery_patterns.store import Store, StoreSettings
from patterns.resilience.clocked import ClockedStore
from servers import RabbitKind, RabbitServer, RedisKind, RedisServer, redis_server


@pytest.fixture(scope="module")
def redis(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server(kind=redis_kind) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit(rabbit_of: Callable[[RabbitKind], RabbitServer], rabbit_kind: RabbitKind) -> RabbitServer:
    """One RabbitMQ for all: it takes seven seconds to start, and each test has queues of its own."""
    return rabbit_of(rabbit_kind)


@pytest.fixture
def store(redis: RedisServer) -> Iterator[Store]:
    """A store as applications have it, on an empty server."""
    with Celery("test", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=redis.url(3)))
        store.client.flushall()
        yield store
        store.close()


@pytest.fixture
def clocked(redis: RedisServer) -> Iterator[ClockedStore]:
    """A store whose scripts see a time that the test sets, on an empty server."""
    with Celery("test", set_as_current=False) as app:
        store = ClockedStore(app, StoreSettings(url=redis.url(3)))
        store.client.flushall()
        store.set_clock(1_800_000_000_000)
        yield store
        store.close()
