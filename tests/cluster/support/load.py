"""Ordinary Celery messages from an ordinary producer: pools do not only serve workflows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from celery import Celery

from servers import eventually
from support.manifests import DEFAULT_QUEUE
from support.playground import BACKEND, BROKER, Playground

SEND_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``examples.ledger.record``: it writes a start, takes a while, and writes a finish."""

    key: str
    seconds: float
    priority: int | None = None


def send(ground: Playground, calls: Iterable[Call], *, queue: str = DEFAULT_QUEUE) -> tuple[str, ...]:
    """Publish the calls as any application would; return their task ids in the same order."""
    wanted = tuple(calls)

    def attempt() -> tuple[str, ...]:
        redis = ground.redis()
        app = Celery("producer", broker=redis.url(BROKER), backend=redis.url(BACKEND), set_as_current=False)
        app.conf.update(broker_connection_retry=False, broker_connection_timeout=5, task_ignore_result=True)
        with app, app.connection_for_write() as connection, connection.Producer(serializer="json") as producer:
            return tuple(
                app.send_task(
                    "examples.ledger.record",
                    (call.key, call.seconds),
                    queue=queue,
                    priority=call.priority,
                    producer=producer,
                    task_id=f"{ground.name}-{call.key}",
                ).id
                for call in wanted
            )

    return eventually(attempt, within=SEND_SECONDS, every=0.5, what="a broker that takes messages")
