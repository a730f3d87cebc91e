"""A broker, a worker of the shaky application and the application's dead letters."""

from __future__ import annotations

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
STORE_DB, LEDGER_DB = 3, 5


@dataclass
class Stage:
    """One queue of one broker, with the store and a ledger beside it."""

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
        options = {"app": "shaky:app", "queues": self.queue, **options}
        return celery_worker(broker=self.broker, backend=self.redis.url(1), python_path=APPS, env=env, **options)

    def send(self, task: str, *args: Any, **kwargs: Any) -> str:
        """Publish a task to the stage's queue; returns its id."""
        return str(self.app.send_task(task, args, kwargs, queue=self.queue).id)

    def publish(self, body: Any, **options: Any) -> None:
        """Publish anything to the stage's queue."""
        with self.app.producer_pool.acquire() as producer:
            producer.publish(body, exchange="", routing_key=self.queue, **options)

    def ran(self, key: str) -> int:
        """Return how often a task began."""
        with self.redis.client(LEDGER_DB) as client:
            found: Any = client.get(key)
            return int(found or 0)

    def state(self, task_id: str) -> str:
        """Return the state that is stored for a task."""
        return str(self.app.AsyncResult(task_id).state)

    def wait_letters(self, count: int, within: float = 15.0, what: Any = "") -> list[Letter]:
        """Wait for so many letters of the queue; oldest first."""

        def found() -> list[Letter] | None:
            letters = list(self.letters.scan(self.queue, newest_first=False))
            return letters if len(letters) >= count else None

        letters = eventually(found, within=within, what=what) or []
        assert len(letters) == count, [(each.message.task_id, each.reason, each.attempts) for each in letters]
        return letters


@contextmanager
def stage_on(redis: RedisServer, broker: str) -> Iterator[Stage]:
    """Give a stage on a broker; results, store and ledger are on the Redis."""
    with Celery("sender", set_as_current=False, broker=broker, backend=redis.url(1)) as app:
        store = patterns_of(app)._store = Store(app, StoreSettings(url=redis.url(STORE_DB)))
        try:
            yield Stage(redis=redis, broker=broker, app=app, store=store)
        finally:
            store.close()
