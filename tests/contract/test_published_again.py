"""A retry by Celery's own means that was lost comes to workers as Celery itself would have sent it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kombu.connection import Connection

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.domain.messages import Resumption, TaskMessage
from celery_patterns.protocol import TRIES_HEADER, TaskIdentity
from servers import RabbitKind, RedisKind, every_kind, every_rabbit

KINDS: list[RedisKind | RabbitKind] = [*every_kind(), *every_rabbit()]
UID = "b4f4b2a5-6a53-4c0f-9bd5-6f1d1f3c2a11"


def taken(url: str, queue: str) -> Any:
    with Connection(url) as connection, connection.channel() as channel:  # type: ignore[no-untyped-call]
        message = channel.basic_get(queue, no_ack=True)
        assert message is not None
        return message


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
async def test_it_carries_celerys_count_and_the_tries_to_the_queue_of_the_retry(
    broker_url: Callable[..., str], kind: RedisKind | RabbitKind, queue: str
) -> None:
    tries = {"attempt": 2, "deferrals": 1, "deferred": 0.0, "first_at": 5.5}
    url, connections = broker_url(kind), CeleryConnections(SystemClock())
    first = TaskMessage(TaskIdentity(UID, 1, "s", 0, 1), "t", (1,), {"k": 2}, queue="elsewhere")
    resumed = first.resumed(Resumption(3, queue, tries))
    assert first.resumed(None) == first
    await connections.broker(url).publish([resumed])
    await connections.close_all()
    message = taken(url, queue)
    assert {name: message.headers[name] for name in ("id", "retries", "eta", TRIES_HEADER)} == {
        "id": first.identity.task_id,
        "retries": 3,
        "eta": None,
        TRIES_HEADER: tries,
    }
    assert json.loads(message.body)[:2] == [[1], {"k": 2}]
