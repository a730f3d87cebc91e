"""Draining: stop taking messages, finish what is held, know when nothing is left; and the way back.

The consumer is changed only from its own thread. The wish (draining or not) is a flag; one function makes the consumer
match it, however often it is called and also after a reconnect, so the order of calls does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery_patterns.agent import native

logger = native.Logger(__name__)

QUIET_SECONDS = 0.25
"""Nothing held for this long in a row: the last acknowledgement, queued for the consumer's thread, is out by then."""
SETTLE_SECONDS = 2.5
"""Wait after cancelling on a transport whose inner state is unknown: longer than a polling transport's one round."""


class Drain:
    """The drain of one worker.

    Args:
        held: Returns whether the worker holds any task (active, reserved or scheduled).
    """

    def __init__(self, held: Callable[[], bool]) -> None:
        self._held = held
        self._lock = native.new_lock()
        self._consumer: Any = None
        self._queues: tuple[str, ...] = ()
        self._cancelled_at: float | None = None
        self._quiet_since: float | None = None
        self.draining = False
        """What was asked for last."""

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues the worker consumes from, or would if it were not draining."""
        return self._queues or _selected(self._consumer)

    @property
    def drained(self) -> bool:
        """Draining, consumers cancelled, and nothing held for a moment."""
        quiet_since = self._quiet_since
        return self.draining and quiet_since is not None and time.monotonic() - quiet_since >= QUIET_SECONDS

    def ask(self, *, draining: bool) -> None:
        """Begin or end draining; returns at once, from any thread."""
        with self._lock:
            if self.draining == draining:
                return
            self.draining = draining
            self._quiet_since = None
            consumer = self._consumer
        logger.info("the worker %s", "drains: it takes no more tasks" if draining else "consumes again")
        if consumer is not None:
            consumer.call_soon(self._match)

    def connected(self, consumer: Any) -> None:
        """Take up a consumer that is about to consume (again, after a reconnect); called from its thread."""
        self._consumer = consumer
        self._match()

    def observe(self) -> None:
        """Look whether the worker is quiet; called about ten times a second."""
        if not self.draining or not self._is_quiet():
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = time.monotonic()

    def _match(self) -> None:
        """Make the consumer match the wish; in the consumer's thread."""
        consumer = self._consumer
        if consumer is None or consumer.task_consumer is None:
            return
        if self.draining:
            names = _selected(consumer)
            self._queues = tuple(dict.fromkeys((*self._queues, *names)))
            for name in names:
                consumer.cancel_task_queue(name)
            if self._cancelled_at is None:
                self._cancelled_at = time.monotonic()
        else:
            names, self._queues = self._queues, ()
            self._cancelled_at = None
            for name in names:
                consumer.add_task_queue(name)

    def _is_quiet(self) -> bool:
        if self._held():
            return False
        consumer = self._consumer
        if consumer is None or consumer.connection is None:
            return True  # nothing can arrive; when it connects again, it finds its queues cancelled
        if self._cancelled_at is None:
            return False
        channel = getattr(consumer.task_consumer, "channel", None)
        driver = consumer.connection.transport.driver_type
        if driver == "redis":
            # A blocking pop that was under way when the queues were cancelled may still bring a message, which kombu
            # then puts back; and a message is not done with before its acknowledgement has left.
            return not getattr(channel, "_in_poll", None) and not _unacknowledged(channel)
        if driver == "amqp":
            return True  # cancelling waits for the broker's answer; what came before it is held or put back
        return time.monotonic() - self._cancelled_at >= SETTLE_SECONDS and not _unacknowledged(channel)


def _selected(consumer: Any) -> tuple[str, ...]:
    return () if consumer is None else tuple(consumer.app.amqp.queues.consume_from)


def _unacknowledged(channel: Any) -> int:
    """Return how many messages a virtual transport's channel has delivered and not yet acknowledged."""
    qos = getattr(channel, "qos", None)
    return max(0, len(getattr(qos, "_delivered", ())) - len(getattr(qos, "_dirty", ())))
