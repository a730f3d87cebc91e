"""The places in Celery's start where the agent joins: one step of the worker, one of its consumer."""

from __future__ import annotations

from typing import Any

from celery import VERSION, bootsteps


class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the agent before the pool's and the consumer's work begins."""

    def start(self, worker: Any) -> None:
        """Listen and follow tasks."""
        count_slots(worker.pool)
        worker.celery_patterns_agent.start()


def count_slots(pool: Any) -> None:
    """Let a pool of greenlets say how many it may have.

    Before Celery 5.7 gevent's says how many run: a worker that prefetches nothing would never take its first message.
    """
    kind = type(pool)
    if VERSION[:2] < (5, 7) and kind.__module__ == "celery.concurrency.gevent":
        kind.num_processes = property(lambda self: self.limit)


class ConsumingStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs at every connection to the broker, after the task consumer is made and before it consumes."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Take up the consumer."""
        consumer.controller.celery_patterns_agent.consuming(consumer)

    def stop(self, consumer: Any) -> None:
        """Let the consumer go."""
        consumer.controller.celery_patterns_agent.disconnected()

    def shutdown(self, consumer: Any) -> None:
        """Let the consumer go at the end."""
        consumer.controller.celery_patterns_agent.disconnected()
