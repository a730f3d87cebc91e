"""The operator's own metrics, on a registry of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from celery_operator.adapters.exporter_names import ExporterGauges
from celery_operator.services.ports import Clock, ObjectKey, PoolCounts

LAG_EVERY_SECONDS = 0.5
"""How often the event loop's lag is sampled."""

_RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class PrometheusMetrics:
    """What the operator counts and measures, as Prometheus collectors.

    Args:
        registry: Takes the collectors, those of the process (memory, CPU) included; a second object needs another.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        prefix = "celery_operator"
        self._durations = Histogram(
            f"{prefix}_reconcile_duration_seconds",
            "How long one reconcile took.",
            ["kind"],
            registry=registry,
            buckets=_RECONCILE_BUCKETS,
        )
        self._errors = Counter(
            f"{prefix}_reconcile_errors", "Reconciles that ended with an error.", ["kind"], registry=registry
        )
        self._published = Counter(
            f"{prefix}_published_tasks", "Messages of workflows' tasks that were published.", registry=registry
        )
        self._workflows = Gauge(
            f"{prefix}_workflows_active", "Workflows whose run this operator is advancing.", registry=registry
        )
        pool = ["namespace", "name"]
        self._desired = Gauge(
            f"{prefix}_pool_desired_replicas", "Replicas that a pool is meant to have.", pool, registry=registry
        )
        self._waiting = Gauge(
            f"{prefix}_queue_waiting",
            "Messages that wait in a pool's queue, over all priorities; absent while unknown.",
            [*pool, "queue"],
            registry=registry,
        )
        self._leader = Gauge(f"{prefix}_leader", "1 in the replica that leads.", registry=registry)
        self._lag = Histogram(
            f"{prefix}_loop_lag_seconds",
            "How much later than asked the event loop ran a timer.",
            registry=registry,
            buckets=_LAG_BUCKETS,
        )
        self._queues: dict[ObjectKey, set[str]] = {}
        self._exporter = ExporterGauges(registry)

    def reconciled(self, kind: str, seconds: float, *, failed: bool) -> None:
        """Note one reconcile of a kind."""
        self._durations.labels(kind).observe(seconds)
        if failed:
            self._errors.labels(kind).inc()

    def published(self, tasks: int) -> None:
        """Note so many published messages."""
        self._published.inc(tasks)

    def watch_workflows(self, active: Callable[[], float]) -> None:
        """Ask ``active`` for the number of running workflows whenever the metrics are read."""
        self._workflows.set_function(active)

    def pool(
        self,
        key: ObjectKey,
        *,
        desired_replicas: int,
        waiting: Mapping[str, int | None],
        counts: PoolCounts | None,
    ) -> None:
        """Note what a pool is meant to have and has, and what waits in its queues (None: unknown)."""
        self._exporter.pool(key, waiting, counts)
        self._desired.labels(*key).set(desired_replicas)
        known = {queue: count for queue, count in waiting.items() if count is not None}
        for queue in self._queues.get(key, set()) - known.keys():
            self._waiting.remove(*key, queue)
        self._queues[key] = set(known)
        for queue, count in known.items():
            self._waiting.labels(*key, queue).set(count)

    def forget_pool(self, key: ObjectKey) -> None:
        """Remove a deleted pool's series."""
        self._exporter.forget_pool(key)
        for queue in self._queues.pop(key, set()):
            self._waiting.remove(*key, queue)
        # Removing what is not there is no error to prometheus_client.
        self._desired.remove_by_labels({"namespace": key.namespace, "name": key.name})

    def leads(self, *, leads: bool) -> None:
        """Note whether this replica leads."""
        self._leader.set(1 if leads else 0)

    def lagged(self, seconds: float) -> None:
        """Note one sample of the event loop's lag."""
        self._lag.observe(seconds)


async def watch_loop(metrics: PrometheusMetrics, clock: Clock, *, every_seconds: float = LAG_EVERY_SECONDS) -> None:
    """Sample the event loop's lag until cancelled."""
    while True:
        asked_at = clock.monotonic()
        await asyncio.sleep(every_seconds)
        metrics.lagged(max(0.0, clock.monotonic() - asked_at - every_seconds))
