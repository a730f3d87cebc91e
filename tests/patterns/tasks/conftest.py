"""One Redis and one worker for these tests; those that kill workers start their own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks.patterns import patterns_of
from patterns.tasks import shop
from servers import RedisKind, RedisServer, Worker, celery_worker, eventually, redis_server

TESTS = Path(__file__).parents[2]
BROKER, RESULTS, LEDGER = 0, 1, 2


@pytest.fixture(scope="package")
def redis(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server(kind=redis_kind) as server:
        shop.app.conf.update(broker_url=server.url(BROKER), result_backend=server.url(RESULTS))
        yield server
        _disconnect()


def _disconnect() -> None:
    """Let the application forget its servers: the next kind of Redis is another one."""
    patterns_of(shop.app).store.close()
    shop.app.backend.client.close()
    shop.app.close()
    app: Any = shop.app
    app.amqp._producer_pool = app._backend_cache = None
    app._local.__dict__.pop("backend", None)


StartWorker = Callable[..., AbstractContextManager[Worker]]


@pytest.fixture(scope="package")
def start_worker(redis: RedisServer) -> StartWorker:
    """Start a worker of the shop; like ``servers.celery_worker``."""

    def start(**options: Any) -> AbstractContextManager[Worker]:
        env = {"LEDGER_URL": redis.url(LEDGER), **options.pop("env", {})}
        defaults: dict[str, Any] = {"app": "patterns.tasks.shop:app", "python_path": TESTS, "agent": False}
        return celery_worker(broker=redis.url(BROKER), backend=redis.url(RESULTS), **{**defaults, **options}, env=env)

    return start


@pytest.fixture(scope="package")
def worker(start_worker: StartWorker) -> Iterator[Worker]:
    """A worker with four slots on the queue ``celery``."""
    with start_worker(concurrency=4) as worker:
        yield worker


@pytest.fixture
def store(redis: RedisServer) -> Store:
    assert redis.url()
    return patterns_of(shop.app).store


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def ledger(redis: RedisServer) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Read the entries of one key, of one event if given."""
    with redis.client(LEDGER) as client:

        def read(key: str, event: str | None = None) -> list[dict[str, Any]]:
            entries = [json.loads(entry) for entry in client.lrange(shop.LEDGER, 0, -1)]  # type: ignore[union-attr]
            return [entry for entry in entries if entry["key"] == key and event in (None, entry["event"])]

        yield read


@pytest.fixture
def wait_start(ledger: Callable[..., list[dict[str, Any]]]) -> Callable[..., dict[str, Any]]:
    """Wait until a task with this key has begun for the nth time."""

    def wait(key: str, times: int = 1, within: float = 10.0) -> dict[str, Any]:
        return eventually(
            lambda: (starts := ledger(key, "start"))[times - 1 :] and starts, within=within, what=f"{key} starts"
        )[times - 1]

    return wait


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Path]:
    """Give the publisher here a folder for payloads."""
    patterns = patterns_of(shop.app)
    settings = patterns.store.settings
    patterns.store.settings = StoreSettings(blob_url=f"file://{tmp_path}", lease_seconds=settings.lease_seconds)
    yield tmp_path
    patterns.store.settings = settings


@pytest.fixture
def blob_worker(start_worker: StartWorker, tmp_path: Path, key: str) -> Iterator[str]:
    """A worker with the same folder; gives its queue's name."""
    with start_worker(queues=key, env={"CELERY_PATTERNS_BLOB_URL": f"file://{tmp_path}"}):
        yield key
