"""What monitoring sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.health_server import HealthServer
from celery_operator.adapters.metrics import PrometheusMetrics, watch_loop
from celery_operator.services.ports import ObjectKey, PoolCounts
from contract.patience import until
from servers import LOOPBACK

POOL = ObjectKey("shop", "web")
LABELS = {"namespace": "shop", "name": "web"}


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics(CollectorRegistry())


def value(metrics: PrometheusMetrics, sample: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"celery_operator_{sample}", labels)


def test_what_is_noted_is_shown(metrics: PrometheusMetrics) -> None:
    metrics.reconciled("CeleryWorkerPool", 0.02, failed=False)
    metrics.reconciled("CeleryWorkerPool", 0.5, failed=True)
    metrics.published(10)
    metrics.published(5)
    metrics.watch_workflows(lambda: 7.0)
    metrics.leads(leads=True)
    kind = {"kind": "CeleryWorkerPool"}
    assert value(metrics, "reconcile_duration_seconds_count", **kind) == 2
    assert value(metrics, "reconcile_duration_seconds_sum", **kind) == pytest.approx(0.52)
    assert value(metrics, "reconcile_errors_total", **kind) == 1
    assert value(metrics, "published_tasks_total") == 15
    assert value(metrics, "workflows_active") == 7
    assert value(metrics, "leader") == 1


def test_what_waits_is_absent_while_it_is_unknown_and_pools_go_with_all_their_series(
    metrics: PrometheusMetrics,
) -> None:
    metrics.pool(POOL, desired_replicas=3, waiting={"a": 0, "b": 9}, counts=None)
    assert value(metrics, "pool_desired_replicas", **LABELS) == 3
    assert value(metrics, "queue_waiting", **LABELS, queue="a") == 0
    metrics.pool(POOL, desired_replicas=3, waiting={"a": None, "c": 1}, counts=None)
    assert [value(metrics, "queue_waiting", **LABELS, queue=queue) for queue in "abc"] == [None, None, 1]
    metrics.forget_pool(POOL)
    metrics.forget_pool(POOL)
    assert value(metrics, "pool_desired_replicas", **LABELS) is None
    assert value(metrics, "queue_waiting", **LABELS, queue="c") is None


def test_queues_are_told_under_the_names_of_celery_exporter(metrics: PrometheusMetrics) -> None:
    def told() -> dict[str, float]:
        return {
            f"{sample.name.removeprefix('celery_')} {sample.labels['queue_name']}": sample.value
            for metric in metrics.registry.collect()
            for sample in metric.samples
            if "queue_name" in sample.labels and (sample.labels["namespace"], sample.labels["name"]) == POOL
        }

    metrics.pool(POOL, desired_replicas=3, waiting={"a": 7, "b": None}, counts=PoolCounts(3, 2, 12))
    assert told() == {
        "queue_length a": 7,
        **{f"active_worker_count {queue}": 3 for queue in "ab"},
        **{f"active_process_count {queue}": 12 for queue in "ab"},
        **{f"active_consumer_count {queue}": 2 for queue in "ab"},
    }
    metrics.pool(POOL, desired_replicas=3, waiting={"a": 8}, counts=None)
    assert told() == {"queue_length a": 8}, "what is unknown, or no queue of the pool any more, is absent"
    metrics.forget_pool(POOL)
    assert told() == {}


async def test_a_blocked_event_loop_shows_as_lag(metrics: PrometheusMetrics) -> None:
    import time

    watching = asyncio.create_task(watch_loop(metrics, SystemClock(), every_seconds=0.01))
    await asyncio.sleep(0)
    time.sleep(0.12)  # noqa: ASYNC251 - blocks the loop, which is what is measured
    await until(lambda: asyncio.sleep(0, value(metrics, "loop_lag_seconds_count")))
    watching.cancel()
    count, fast = (
        value(metrics, "loop_lag_seconds_count"),
        value(metrics, "loop_lag_seconds_bucket", le="0.05"),
    )
    assert count is not None
    assert fast is not None
    assert count - fast >= 1


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_probes_and_metrics_are_served(session: aiohttp.ClientSession, metrics: PrometheusMetrics) -> None:
    missing: list[str] = ["waits for the API server"]
    server = HealthServer(ready=lambda: missing[0] if missing else None, registry=metrics.registry, host=LOOPBACK)
    port = await server.start()

    async def get(path: str) -> tuple[int, str]:
        async with session.get(f"http://{LOOPBACK}:{port}{path}") as answer:
            return answer.status, await answer.text()

    try:
        assert await get("/healthz") == (200, "ok\n")
        assert await get("/readyz") == (503, "waits for the API server\n")
        missing.clear()
        assert await get("/readyz") == (200, "ready\n")
        metrics.published(2)
        status, text = await get("/metrics")
        assert (status, "celery_operator_published_tasks_total 2.0" in text) == (200, True)
        assert "process_resident_memory_bytes" in text
    finally:
        await server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get("/healthz")


async def test_a_taken_port_is_an_error(metrics: PrometheusMetrics) -> None:
    first = HealthServer(ready=lambda: None, registry=metrics.registry, host=LOOPBACK)
    port = await first.start()
    second = HealthServer(ready=lambda: None, registry=metrics.registry, host=LOOPBACK, port=port)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()
    await first.stop()


def test_the_clock_is_aware_and_never_runs_backwards() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() is not None
    before = clock.monotonic()
    assert clock.monotonic() >= before
