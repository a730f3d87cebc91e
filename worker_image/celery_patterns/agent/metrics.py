"""Prometheus metrics of one worker, counted in its main process only.

Children are recycled and killed; the main process hears the end of every task, so its counts are exact, and there are
no files of dead processes to add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from celery_patterns import protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

RUNTIME_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)
"""From a no-op to an hour; few, because every task name has all of them."""


class Metrics:
    """The worker's own registry; ``available`` is False where prometheus_client is not installed."""

    def __init__(self, state: Callable[[], protocol.WorkerState], pool: str) -> None:
        self._state = state
        self._pool = pool
        self._children: dict[tuple[str, str], Any] = {}
        self._runtimes: dict[str, Any] = {}
        try:
            import prometheus_client  # noqa: PLC0415 - an injected agent may run in an image without it
            from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415
        except ImportError:
            self.available = False
            return
        self.available = True
        self._generate = prometheus_client.generate_latest
        self._gauge = GaugeMetricFamily
        self._registry = prometheus_client.CollectorRegistry()
        self._finished = prometheus_client.Counter(
            "celery_agent_tasks_finished",
            "Tasks that ended, by task and state.",
            ["task", "state"],
            registry=self._registry,
        )
        self._runtime = prometheus_client.Histogram(
            "celery_agent_task_runtime_seconds",
            "Time from a task's start to its end.",
            ["task"],
            registry=self._registry,
            buckets=RUNTIME_BUCKETS,
        )
        self._dropped = prometheus_client.Counter(
            "celery_agent_claims_dropped", "Duplicates of workflow tasks that did not run.", registry=self._registry
        )
        self._registry.register(self)

    def ended(self, task: str, state: str, runtime: float | None) -> None:
        """Count the end of a task."""
        if not self.available:
            return
        child = self._children.get((task, state))
        if child is None:
            child = self._children[task, state] = self._finished.labels(task, state)
        child.inc()
        if runtime is not None:
            histogram = self._runtimes.get(task)
            if histogram is None:
                histogram = self._runtimes[task] = self._runtime.labels(task)
            histogram.observe(runtime)

    def dropped(self) -> None:
        """Count a duplicate that was dropped."""
        if self.available:
            self._dropped.inc()

    def collect(self) -> Iterator[Any]:
        """Yield what is read at the moment of asking; called by the registry."""
        state = self._state()
        gauge = self._gauge
        info = gauge("celery_agent_info", "This worker.", labels=["hostname", "pool", "celery_version"])
        info.add_metric([state.hostname, self._pool, state.celery_version], 1)
        yield info
        yield gauge("celery_agent_slots", "Tasks it can run at a time.", value=state.slots)
        yield gauge("celery_agent_tasks_active", "Tasks running.", value=state.active)
        yield gauge("celery_agent_tasks_reserved", "Tasks taken and waiting for a slot.", value=state.reserved)
        yield gauge("celery_agent_tasks_scheduled", "Tasks held for later.", value=state.scheduled)
        yield gauge("celery_agent_draining", "1 while it takes no more tasks.", value=int(state.draining))

    def text(self) -> bytes:
        """Return the exposition."""
        return self._generate(self._registry)
