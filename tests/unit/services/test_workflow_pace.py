"""Many workflows at once share what each would otherwise ask or write alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.api.model import NamedRef
from celery_operator.domain.errors import SpecError
from celery_operator.services.apps import AppResolver
from celery_operator.services.ports import Manifest, ObjectKey
from celery_operator.services.workflows.pace import CHECKPOINT_SHARE, STATUS_SHARE, SWEEP_SHARE, Pace
from celery_operator.services.workflows.shared_apps import APP_SECONDS, SharedApps
from celery_operator.services.workflows.sweep import after_progress
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster

SECOND = timedelta(seconds=1)
APP = NamedRef(name="shop")


class CountingCluster(FakeCluster):
    """Counts reads, and lets others run during each, as a real one does."""

    reads = 0

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:  # type: ignore[explicit-override]
        self.reads += 1
        await asyncio.sleep(0)
        return await super().get(kind, key)


def celery_app(url: str) -> Manifest:
    return {"kind": "CeleryApp", "metadata": {"name": "shop"}, "spec": {"connection": {"broker": {"url": url}}}}


def _delays(pace: Pace) -> tuple[timedelta, timedelta, timedelta]:
    return pace.status(SECOND), pace.checkpoint(SECOND), pace.sweep(SECOND)


def test_a_run_that_is_alone_is_not_held_up() -> None:
    pace = Pace()
    pace.enter()
    assert _delays(pace) == (SECOND, SECOND, SECOND)


def test_a_thousand_runs_do_no_more_in_a_second_than_a_hundred() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.enter()
    assert _delays(pace) == (1000 * STATUS_SHARE, 1000 * CHECKPOINT_SHARE, 1000 * SWEEP_SHARE)
    calm = [pace.calm]
    for _ in range(990):
        pace.leave()
    assert [*calm, pace.calm] == [False, True]
    assert _delays(pace) == (SECOND, SECOND, SECOND)


def test_progress_puts_a_sweep_off_but_not_for_ever() -> None:
    begun = FakeClock().now()
    due, swept, sweeps = begun + SECOND, begun, []
    for tenth in range(1, 121):  # a result ten times a second, for twelve seconds
        now = begun + tenth * SECOND / 10
        if now >= due:
            sweeps.append((now - begun) / SECOND)
            due, swept = now + SECOND, now
        due = after_progress(due, swept=swept, now=now, soon=SECOND)
    assert sweeps == [5.0, 10.0]
    assert after_progress(due, swept=swept, now=now, soon=SECOND) == now + SECOND


def test_progress_puts_off_no_sweep_that_is_due() -> None:
    now = FakeClock().now()
    assert after_progress(now, swept=now - SECOND, now=now, soon=SECOND) == now


async def test_workflows_that_begin_together_ask_once_for_their_application() -> None:
    cluster = CountingCluster(celery_app("redis://redis/0"))
    shared = SharedApps(AppResolver(cluster), FakeClock())
    apps = await asyncio.gather(*(shared.resolve("default", APP, None) for _ in range(50)))
    assert ({app.broker_url for app in apps}, cluster.reads) == ({"redis://redis/0"}, 1)


async def test_a_changed_application_is_seen_by_whoever_begins_later() -> None:
    cluster, clock = CountingCluster(celery_app("redis://old/0")), FakeClock()
    shared = SharedApps(AppResolver(cluster), clock)
    await shared.resolve("default", APP, None)
    cluster.put(celery_app("redis://new/0"))
    clock.advance(APP_SECONDS)
    assert (await shared.resolve("default", APP, None)).broker_url == "redis://new/0"


async def test_a_refusal_is_not_kept() -> None:
    cluster = CountingCluster()
    shared = SharedApps(AppResolver(cluster), FakeClock())
    with pytest.raises(SpecError) as caught:
        await shared.resolve("default", APP, None)
    assert caught.value.reason is Reason.APP_NOT_FOUND
    cluster.put(celery_app("redis://redis/0"))
    assert (await shared.resolve("default", APP, None)).broker_url == "redis://redis/0"


async def test_a_workflow_that_is_deleted_while_it_asks_ends_it_for_no_other() -> None:
    cluster = CountingCluster(celery_app("redis://redis/0"))
    shared = SharedApps(AppResolver(cluster), FakeClock())
    first, second = (asyncio.create_task(shared.resolve("default", APP, None)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert ((await second).broker_url, cluster.reads) == ("redis://redis/0", 1)
