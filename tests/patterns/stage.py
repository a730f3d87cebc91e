"""A broker, a worker of some application of the tests on it, and that application's dead letters."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from celery import Celery
from redis import Redis

from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.letters import Letter
from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks.patterns import patterns_of
from servers import RedisServer, Worker, celery_worker, eventually

BROKER_DB, RESULT_DB, STORE_DB, LEDGER_DB = 0, 1, 3, 5
WITHIN = 30.0
"""Seconds: the machine may be loaded."""


@dataclass
class Stage:
    """One queue of one broker; results, the patterns' store and a ledger are on a Redis."""

    APPS: ClassVar[Path]
    """Where workers import their application from, if nothing else is said."""
    APP: ClassVar[str]
    """Which application that is."""

    redis: RedisServer
    broker: str
    app: Celery
    store: Store
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex[:8]}")

    @classmethod
    @contextmanager
    def on(cls, redis: RedisServer, broker: str) -> Iterator[Self]:
        """Give a stage on a broker."""
        with Celery("sender", set_as_current=False, broker=broker, backend=redis.url(RESULT_DB)) as app:
            store = patterns_of(app)._store = Store(app, StoreSettings(url=redis.url(STORE_DB)))
            try:
                yield cls(redis=redis, broker=broker, app=app, store=store)
            finally:
                store.close()

    @property
    def letters(self) -> LetterStreams:
        """The application's dead letters."""
        return LetterStreams(self.store)

    def worker(self, **options: Any) -> AbstractContextManager[Worker]:
        """Start a worker of this stage's queue; like ``servers.celery_worker``."""
        env = {"LEDGER_URL": self.redis.url(LEDGER_DB), "CELERY_PATTERNS_STORE_URL": self.redis.url(STORE_DB)}
        env |= options.pop("env", {})
        defaults: dict[str, Any] = {"app": self.APP, "queues": self.queue, "broker": self.broker}
        defaults |= {"backend": self.redis.url(RESULT_DB), "python_path": self.APPS}
        return celery_worker(**{**defaults, **options}, env=env)

    def send(self, task: str, *args: Any, **kwargs: Any) -> str:
        """Publish a task to the stage's queue as anybody would; returns its id."""
        return str(self.app.send_task(task, args, kwargs, queue=self.queue).id)

    def state(self, task_id: str) -> str:
        """Return the state that is stored for a task."""
        return str(self.app.AsyncResult(task_id).state)

    def ran(self, key: str) -> int:
        """Return how often a task began."""
        with self.redis.client(LEDGER_DB) as client:
            found: Any = client.get(key)
            return int(found or 0)

    def held(self) -> int:
        """Count the messages of the stage's queue that workers on its Redis hold.

        Workers of other tests, which were killed with what they held, have left others.
        """
        with Redis.from_url(self.broker) as client:
            messages: Any = client.hvals("unacked")
        return sum(self.queue.encode() in message for message in messages)

    def wait_letters(self, count: int, within: float = WITHIN, what: Any = "") -> list[Letter]:
        """Wait for so many letters of the queue; oldest first."""

        def found() -> list[Letter] | None:
            letters = list(self.letters.scan(self.queue, newest_first=False))
            return letters if len(letters) >= count else None

        letters = eventually(found, within=within, what=what) or []
        assert len(letters) == count, [(each.message.task_id, each.reason, each.attempts) for each in letters]
        return letters
