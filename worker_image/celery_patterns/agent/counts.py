"""What the worker holds, counted from Celery's own sets of requests; safe to call from any thread."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from celery.worker import state
from celery.worker.request import Request

TRIES = 20
"""A set that another thread changes cannot be iterated just then; it is small, so a few tries are enough."""


class StillChanging(RuntimeError):  # noqa: N818 - it says why there is no number
    """A set of requests changed during each look at it: how many it holds is unknown for the moment."""


@dataclass(frozen=True, slots=True)
class Held:
    """Tasks that a worker has taken from the broker, by what becomes of them."""

    active: int
    reserved: int
    scheduled: int
    scheduled_due: int
    oldest_active_seconds: float
    oldest_seconds: float | None
    """Age of the oldest message that says when it was published."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.active + self.reserved + self.scheduled


def count(consumer: Any) -> Held:
    """Count what is held now; ``consumer`` may be None before the first connection.

    Raises:
        StillChanging: If the sets cannot be looked through just then.
    """
    active = _copy(state.active_requests)
    scheduled = _scheduled(consumer) - active
    reserved = _copy(state.reserved_requests) - active - scheduled
    limited = 0 if consumer is None else _rate_limited(consumer, reserved | scheduled | active)
    now = time.time()
    published = [at for r in (active | reserved | scheduled) if (at := getattr(r, "published_at", None)) is not None]
    return Held(
        active=len(active),
        reserved=len(reserved) + limited,
        scheduled=len(scheduled),
        scheduled_due=sum(1 for request in scheduled if request.eta is not None and request.eta.timestamp() <= now),
        oldest_active_seconds=max((now - r.time_start for r in active if r.time_start is not None), default=0.0),
        oldest_seconds=max(0.0, now - min(published)) if published else None,
    )


def held_total(consumer: Any) -> int:
    """Count all that is held. Raises StillChanging as count() does."""
    return count(consumer).total


def holds_any() -> bool:
    """Whether any task runs or waits for a slot; the cheapest of these questions."""
    return len(state.reserved_requests) > 0


def _scheduled(consumer: Any) -> set[Any]:
    """Return the requests held for later; before release 5.7, Celery kept them as arguments of timed calls."""
    known = getattr(state, "scheduled_requests", None)
    if known is not None:
        return _copy(known)
    if consumer is None or consumer.timer is None:
        return set()
    calls = [waiting.entry for waiting in list(consumer.timer.schedule.queue)]
    return {call.args[0] for call in calls if call.args and isinstance(call.args[0], Request) and not call.canceled}


def _rate_limited(consumer: Any, counted: Collection[Any]) -> int:
    """Count requests that wait for their task's rate limit: Celery keeps them in token buckets only."""
    waiting = 0
    for bucket in list(consumer.task_buckets.values()):
        contents = getattr(bucket, "contents", None)
        if contents:
            waiting += sum(1 for request, _ in list(contents) if request not in counted)
    return waiting


def _copy(requests: Any) -> set[Any]:
    for _ in range(TRIES):
        try:
            return set(requests)
        except RuntimeError:
            continue
    raise StillChanging("the worker's sets of requests change all the time")
