"""Stores on the module's Redis, which is emptied for each test that has one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_patterns.cli import check_workers, reaching
from celery_patterns.store import Store, StoreSettings
from patterns.resilience.clocked import ClockedStore
from servers import RedisServer


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


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let doctor not wait for workers where there are none, nor for a server that says nothing."""
    monkeypatch.setattr(check_workers, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(reaching, "SECONDS", 0.3)
