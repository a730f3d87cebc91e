"""What the operator knows of queues, under the names of celery-exporter, so that dashboards made for it go on working.

https://github.com/danihodovic/celery-exporter has one series for each queue. Here each pool has its own, since two
applications may have a queue of one name.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from celery_operator.services.ports import ObjectKey, PoolCounts

_LABELS = ("queue_name", "namespace", "name")


class ExporterGauges:
    """Gauges of queues, by queue and pool; what is unknown is absent.

    Args:
        registry: Takes them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"celery_{name}", text, _LABELS, registry=registry)

        self._length = gauge("queue_length", "Messages that wait in the queue, over all priorities.")
        self._workers = gauge("active_worker_count", "Workers that answer and serve the queue.")
        self._processes = gauge("active_process_count", "Slots of these workers: processes, threads or greenlets.")
        self._consumers = gauge("active_consumer_count", "Workers that take from the queue: those not told to stop.")
        self._queues: dict[ObjectKey, set[str]] = {}

    def pool(self, key: ObjectKey, waiting: Mapping[str, int | None], counts: PoolCounts | None) -> None:
        """Note what waits in a pool's queues and who serves them (None: unknown)."""
        for queue in self._queues.get(key, set()) - waiting.keys():
            self._forget(key, queue)
        self._queues[key] = set(waiting)
        for queue, length in waiting.items():
            for gauge, value in (
                (self._length, length),
                (self._workers, None if counts is None else counts.workers),
                (self._processes, None if counts is None else counts.slots),
                (self._consumers, None if counts is None else counts.consuming),
            ):
                if value is None:
                    _remove(gauge, key, queue)
                else:
                    gauge.labels(queue, *key).set(value)

    def forget_pool(self, key: ObjectKey) -> None:
        """Remove a deleted pool's series."""
        for queue in self._queues.pop(key, set()):
            self._forget(key, queue)

    def _forget(self, key: ObjectKey, queue: str) -> None:
        for gauge in (self._length, self._workers, self._processes, self._consumers):
            _remove(gauge, key, queue)


def _remove(gauge: Gauge, key: ObjectKey, queue: str) -> None:
    # By labels: removing what is not there is then no error to prometheus_client.
    gauge.remove_by_labels(dict(zip(_LABELS, (queue, *key), strict=True)))
