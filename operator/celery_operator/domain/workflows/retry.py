"""When a failed attempt is tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from celery_operator.api.task import Backoff, Retry

FailureClass = Literal["Failed", "Lost", "TimedOut"]

_HASH_DIGITS = 12
"""Hexadecimal digits of a task id that decide its jitter: ids are hashes, and 48 bits are plenty."""


def retry_delay(retry: Retry, failure: FailureClass, *, attempt: int, task_id: str) -> timedelta | None:
    """Return how long to wait before the next attempt after this one failed; None: it was the last.

    The jitter depends on the failed attempt's id alone, so that whoever plans it again finds the same time.
    """
    if attempt > retry.limit or failure not in retry.classes:
        return None
    return backoff_delay(retry.backoff, attempt=attempt, task_id=task_id)


def backoff_delay(backoff: Backoff, *, attempt: int, task_id: str) -> timedelta:
    """Return initial x factor^(attempt-1), at most max, give or take the jitter."""
    seconds = min(backoff.initial_seconds * backoff.factor ** (attempt - 1), backoff.max_seconds)
    share = int(task_id[-_HASH_DIGITS:], 16) / 16**_HASH_DIGITS
    jitter = backoff.jitter_percent / 100 * (2 * share - 1)
    return timedelta(seconds=round(seconds * (1 + jitter), 3))
