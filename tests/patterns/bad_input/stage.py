"""The stage of these tests: a worker with the agent on it, and hands that put messages that no Celery would write."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patterns import stage
from patterns.stage import BROKER_DB, LEDGER_DB, WITHIN
from servers import Worker, eventually


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as bytes and fields, before any library has looked at it."""

    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"


class Stage(stage.Stage):
    """A stage whose workers run the sturdy application."""

    APPS = Path(__file__).parent / "apps"
    APP = "sturdy:app"

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

    def wait_done(self, task_id: str, worker: Worker) -> None:
        """Wait until a task has succeeded."""
        eventually(lambda: self.state(task_id) == "SUCCESS", within=WITHIN, what=worker.log)

    def wait_idle(self, worker: Worker) -> None:
        """Wait until the worker holds nothing: no slot, no message, nothing that it would wait for in a drain."""
        worker.wait_state(lambda state: (state.reserved, state.active, state.scheduled) == (0, 0, 0), within=WITHIN)

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
