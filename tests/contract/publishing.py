"""What the tests of brokers publish, and when they say it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from celery_operator.adapters.clock import SystemClock
from celery_operator.domain.messages import TaskMessage
from celery_patterns.protocol import TaskIdentity

UID = "11111111-2222-4333-8444-555555555555"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class StoppedClock(SystemClock):
    """A clock that shows one time."""

    @override
    def now(self) -> datetime:
        return NOW


def message(queue: str, index: int = 0, **fields: Any) -> TaskMessage:
    """Return a message of the step that has its queue's name."""
    identity = TaskIdentity(uid=UID, run=1, step=queue, index=index, attempt=1)
    return TaskMessage(identity=identity, task="stock.describe", queue=queue, **fields)
