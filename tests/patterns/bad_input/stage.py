"""A broker, a worker with the agent on it, and hands that put messages into its queue that no Celery would write."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.letters import Letter
from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks.patterns import patterns_of
from servers import RedisServer, Worker, celery_worker, eventually

APPS = Path(__file__).parent / "apps"
BROKER_DB, RESULT_DB, STORE_DB, LEDGER_DB = 0, 1, 3, 5
WITHIN = 30.0
"""Seconds: the machine may be loaded."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as bytes and fields, before any library has looked at it."""

    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"


@dataclass
class Stage:
    """One queue of one broker; results, letters and a ledger are on a Redis."""

    redis: RedisServer
    broker: str
    app: Celery
    store: Store
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex[:8]}")

    @property
    def letters(self) -> LetterStreams:
        """The application's dead letters."""
        return LetterStreams(self.store)

    def worker(self, **options: Any) -> AbstractContextManager[Worker]:
        """Start a worker of this stage's queue."""
        env = {"LEDGER_URL": self.redis.url(LEDGER_DB), "CELERY_PATTERNS_STORE_URL": self.redis.url(STORE_DB)}
        env |= options.pop("env", {})
        defaults: dict[str, Any] = {"app": "sturdy:app", "queues": self.queue, "broker": self.broker}
        defaults |= {"backend": self.redis.url(RESULT_DB), "python_path": APPS}
        return celery_worker(**{**defaults, **options}, env=env)

    def put(self, raw: Raw) -> None:
        """Put a message into the queue by hand."""
        if self.broker.startswith("amqp"):
            with self.app.producer_pool.acquire() as producer:
                fields = {"content_type": raw.content_type, "content_encoding": raw.content_encoding}
                message = producer.channel.prepare_message(raw.body, headers=raw.headers, properties={}, **fields)
                producer.channel.basic_publish(message, exchange="", routing_key=self.queue)
        else:
            self.push(json.dumps(envelope(raw, self.queue)))

    def push(self, entry: str | bytes) -> None:
        """Put an entry of any form into a Redis list."""
        with self.redis.client(BROKER_DB) as client:
            client.lpush(self.queue, entry)

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Publish a task as anybody would; returns its id."""
        return str(self.app.send_task(task, args, queue=self.queue, **options).id)

    def wait_done(self, task_id: str, worker: Worker) -> None:
        """Wait until a task has succeeded."""
        eventually(lambda: self.app.AsyncResult(task_id).state == "SUCCESS", within=WITHIN, what=worker.log)

    def wait_letters(self, count: int, worker: Worker) -> list[Letter]:
        """Wait for so many letters of the queue; oldest first."""

        def found() -> list[Letter] | None:
            letters = list(self.letters.scan(self.queue, newest_first=False))
            return letters if len(letters) >= count else None

        letters = eventually(found, within=WITHIN, what=worker.log) or []
        assert len(letters) == count
        return letters

    def wait_idle(self, worker: Worker) -> None:
        """Wait until the worker holds nothing: no slot, no message, nothing that it would wait for in a drain."""

        def idle() -> bool:
            state = worker.state()
            return (state.reserved, state.active, state.scheduled) == (0, 0, 0)

        eventually(idle, within=WITHIN, what=lambda: f"{worker.state()}\n{worker.log()}")

    def ran(self, key: str) -> int:
        """Return how often a task began."""
        with self.redis.client(LEDGER_DB) as client:
            found: Any = client.get(key)
            return int(found or 0)

    def allow(self, key: str) -> None:
        """Let a waiting task go on."""
        with self.redis.client(LEDGER_DB) as client:
            client.set(key, 1)


def envelope(raw: Raw, queue: str) -> dict[str, Any]:
    """Return kombu's form of a message in a Redis list."""
    return {
        "body": base64.b64encode(raw.body).decode(),
        "content-type": raw.content_type,
        "content-encoding": raw.content_encoding,
        "headers": raw.headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        },
    }


@contextmanager
def stage_on(redis: RedisServer, broker: str) -> Iterator[Stage]:
    """Give a stage on a broker."""
    with Celery("sender", set_as_current=False, broker=broker, backend=redis.url(RESULT_DB)) as app:
        store = patterns_of(app)._store = Store(app, StoreSettings(url=redis.url(STORE_DB)))
        try:
            yield Stage(redis=redis, broker=broker, app=app, store=store)
        finally:
            store.close()
