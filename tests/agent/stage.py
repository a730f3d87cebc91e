"""The stage of the agent's tests: messages as the operator publishes them, an ear for answers, an outside ledger."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis as redis_client
from celery import Celery

from celery_patterns import protocol
from celery_patterns.agent.settings import ENV_CLAIM_LEASE
from celery_patterns.examples.ledger import ENV_LEDGER_URL, LEDGER_KEY
from servers import RedisServer, Worker, celery_worker, eventually

APPS = Path(__file__).parent / "apps"
BROKER_DB, RESULT_DB, LEDGER_DB = 0, 1, 2


class Ear:
    """Hears the announcements of one result backend, from the moment it is made."""

    def __init__(self, client: redis_client.Redis, channel: str) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(channel)
        while not self._pubsub.subscribed:
            self._pubsub.get_message(timeout=1)
        self.heard: list[protocol.Announcement] = []
        self.bodies: list[dict[str, Any]] = []

    def listen(self, timeout: float = 0.05) -> None:
        """Take in what has come."""
        message = self._pubsub.get_message(timeout=timeout)
        while message is not None:
            for body in json.loads(message["data"]):
                announcement = protocol.Announcement.from_json(body)
                assert announcement is not None, body
                self.heard.append(announcement)
                self.bodies.append(body)
            message = self._pubsub.get_message(timeout=0)

    def about(self, identity: protocol.TaskIdentity) -> list[protocol.Announcement]:
        """Return what was announced of one attempt."""
        self.listen(0)
        return [a for a in self.heard if a.identity == identity]

    def wait(self, identity: protocol.TaskIdentity, *states: str, within: float = 10.0) -> protocol.Announcement:
        """Return the first announcement of an attempt in one of the states."""

        def found() -> list[protocol.Announcement]:
            self.listen()
            return [a for a in self.heard if a.identity == identity and a.state in states]

        return eventually(found, within=within, every=0, what=lambda: f"{states} of {identity}; heard {self.heard}")[0]

    def close(self) -> None:
        """Stop listening."""
        self._pubsub.close()


@dataclass
class Stage:
    """A broker, a result backend and a ledger, with a queue of its own for each test."""

    broker: RedisServer
    results: RedisServer
    stack: ExitStack
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex[:8]}")
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    broker_url: str = ""
    """Another broker than the Redis, which then only keeps the ledger."""

    def __post_init__(self) -> None:
        self.broker_url = self.broker_url or self.broker.url(BROKER_DB)
        # No result backend: the sender would subscribe to the result of every task it sends.
        self.app = Celery("sender", broker=self.broker_url)
        self.stack.callback(self.app.close)
        self.connection = self.stack.enter_context(self.app.connection_for_write())
        self.producer = self.app.amqp.Producer(self.connection)
        # The client's commands are typed for asyncio as well.
        self.broker_client: Any = self.stack.enter_context(self.broker.client(BROKER_DB))
        self.store: Any = self.stack.enter_context(self.results.client(RESULT_DB))
        self.ledger_client: Any = self.stack.enter_context(self.broker.client(LEDGER_DB))

    def worker(self, **options: Any) -> AbstractContextManager[Worker]:
        """Start a worker of this stage; like ``servers.celery_worker``."""
        env = {ENV_LEDGER_URL: self.broker.url(LEDGER_DB), ENV_CLAIM_LEASE: "2", **options.pop("env", {})}
        defaults: dict[str, Any] = {
            "broker": self.broker_url,
            "backend": self.results.url(RESULT_DB),
            "app": "more_tasks:app",
            "python_path": APPS,
            "queues": self.queue,
        }
        return celery_worker(**{**defaults, **options}, env=env)

    def ear(self, key_prefix: str = "") -> Ear:
        """Begin to hear announcements."""
        ear = Ear(self.store, protocol.announce_channel(RESULT_DB, key_prefix))
        self.stack.callback(ear.close)
        return ear

    def identity(self, step: str = "step", index: int = 0, attempt: int = 1, **more: Any) -> protocol.TaskIdentity:
        """Name an attempt of this stage's workflow."""
        return protocol.TaskIdentity(uid=self.uid, run=1, step=step, index=index, attempt=attempt, **more)

    def send(self, identity: protocol.TaskIdentity, task: str, *args: Any, **options: Any) -> protocol.TaskIdentity:
        """Publish a workflow's task as the operator does."""
        self.send_plain(task, *args, task_id=identity.task_id, header=identity.to_header(), **options)
        return identity

    def send_plain(self, task: str, *args: Any, task_id: str | None = None, header: Any = None, **options: Any) -> str:
        """Publish any message; returns its task id."""
        headers = {**options.pop("headers", {}), **({} if header is None else {protocol.TASK_HEADER: header})}
        options = {"queue": self.queue, "producer": self.producer, **options}
        return str(self.app.send_task(task, args=args, task_id=task_id, headers=headers, **options).id)

    def record(self, identity: protocol.TaskIdentity, seconds: float = 0.0, **options: Any) -> protocol.TaskIdentity:
        """Publish a task that writes to the ledger."""
        return self.send(identity, options.pop("task", "examples.ledger.record"), identity.task_id, seconds, **options)

    def ledger(self) -> dict[str, Counter[str]]:
        """Return for each key how often it started and finished."""
        counted: dict[str, Counter[str]] = {}
        for line in self.ledger_client.lrange(LEDGER_KEY, 0, -1):
            entry = json.loads(line)
            counted.setdefault(entry["key"], Counter())[entry["event"]] += 1
        return counted

    def wait_ledger(self, key: str, event: str, times: int = 1, within: float = 15.0) -> None:
        """Wait until the ledger has an event of a key."""
        eventually(
            lambda: self.ledger().get(key, Counter())[event] >= times,
            within=within,
            what=lambda: f"{event} of {key}; ledger {self.ledger().get(key)}",
        )

    def claim(self, identity: protocol.TaskIdentity, retries: int = 0) -> dict[str, str]:
        """Return the record of an attempt's claim."""
        record = self.store.hgetall(protocol.claim_key(identity.task_id, retries))
        return {key.decode(): value.decode() for key, value in record.items()}

    def result(self, identity: protocol.TaskIdentity) -> dict[str, Any] | None:
        """Return what Celery stored."""
        text = self.store.get(f"{protocol.RESULT_KEY_PREFIX}{identity.task_id}")
        return None if text is None else dict(json.loads(text))

    def waiting(self) -> int:
        """Return how many messages wait in this stage's queue."""
        return sum(int(self.broker_client.llen(key)) for key in protocol.priority_keys(self.queue))
