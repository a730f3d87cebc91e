"""Messages that workers have taken from a Redis, and the lease thread's view of them, without workers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue

from celery_patterns.agent import lease
from celery_patterns.agent.lease import Keys
from servers import RedisServer


class Held:
    """Messages that workers of some clock have taken, on a database of their own.

    Args:
        server: Where they are.
        stack: Closes what is opened here.
        prefix: The transport's ``global_keyprefix``.
        workers: How many there are, each with a consumer and a lease thread's connection of its own.
    """

    def __init__(self, server: RedisServer, stack: ExitStack, prefix: str, *, workers: int = 2) -> None:
        self.prefix = prefix
        self.keys = Keys.of({}).leased()
        self.client: Any = stack.enter_context(server.client())
        self.queues: list[Any] = []
        self.brokers: list[lease._Broker] = []
        for _ in range(workers):
            options = {"global_keyprefix": prefix, **self.keys.options()}
            connection: Any = Connection(server.url(), transport_options=options)  # type: ignore[no-untyped-call]
            stack.callback(connection.release)
            self.queues.append(Queue("q", channel=connection.channel()))  # type: ignore[no-untyped-call]
            self.queues[-1].declare()
            self.brokers.append(lease._Broker(connection, {"global_keyprefix": prefix}, self.keys))
            stack.callback(self.brokers[-1].close)
        self.queue = self.queues[0]

    def publish(self, body: str = "x") -> None:
        """Publish a message."""
        producer = self.queue.channel.connection.client.Producer(self.queue.channel)
        producer.publish(body, routing_key="q", headers={"task": "t", "id": body})

    def take(self, body: str = "x") -> str:
        """Publish a message, take it, and return its tag."""
        self.publish(body)
        message = self.queue.get()
        assert message is not None
        return str(message.delivery_tag)

    def noted(self, tag: str, seconds_ago: float) -> None:
        """Let it be noted at another time, as by a clock that is wrong or a worker that has died."""
        self.client.zadd(self.index, {tag: self.now() - seconds_ago})

    def now(self) -> float:
        """Return the server's time."""
        seconds, micros = self.client.time()
        return float(seconds) + float(micros) / 1e6

    @property
    def index(self) -> str:
        """The key of when each was noted."""
        return f"{self.prefix}{self.keys.index}"

    def look(self, which: int = 0) -> list[str]:
        """Look at once, whoever looked a moment ago."""
        self.client.delete(f"{self.index}:turn")
        return self.brokers[which].look(10)

    def waiting(self) -> list[str]:
        """Return the ids of what waits, the head of the queue last."""
        texts: list[bytes] = self.client.lrange(f"{self.prefix}q", 0, -1)
        return [json.loads(text)["headers"]["id"] for text in texts]
