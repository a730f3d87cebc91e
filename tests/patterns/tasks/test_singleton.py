"""Singletons with real workers: every scope, every answer to duplicates, and locks of the dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import group
from celery.exceptions import TaskRevokedError

from celery_patterns.tasks.errors import DuplicateCall
from patterns.tasks import shop
from patterns.tasks.conftest import StartWorker
from servers import eventually

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]

pytestmark = [pytest.mark.every_redis, pytest.mark.usefixtures("worker")]


def test_a_second_call_is_dropped_while_the_first_runs(wait_start: WaitStart, key: str) -> None:
    first = shop.report.delay(key, 0.6)
    wait_start(key)
    with pytest.raises(TaskRevokedError, match=f"task {first.id} with the same key runs"):
        shop.report.delay(key).get(timeout=60)
    assert first.get(timeout=60) == key
    assert shop.report.delay(key).get(timeout=60) == key


def test_what_waits_or_runs_keeps_others_out_at_publish(wait_start: WaitStart, key: str) -> None:
    first = shop.report_once.apply_async([key, 0.6], countdown=0.3)
    with pytest.raises(DuplicateCall, match=first.id):
        shop.report_once.delay(key)
    wait_start(key)
    with pytest.raises(DuplicateCall, match=first.id):
        shop.report_once.delay(key)
    assert first.get(timeout=60) == key
    assert eventually(lambda: shop.report_once.delay(key)).get(timeout=60) == key


def test_return_existing_gives_the_first_ones_handle(ledger: Ledger, key: str) -> None:
    results = [shop.report_shared.delay(key, 0.3) for _ in range(5)]
    assert len({result.id for result in results}) == 1
    assert results[-1].get(timeout=60) == key
    assert len(ledger(key, "start")) == 1


@pytest.mark.one_redis
@pytest.mark.parametrize("canvas", ["first of a chain", "last of a chain", "group", "with a callback"])
def test_a_duplicate_that_a_canvas_waits_for_ends_instead_of_returning_another(
    wait_start: WaitStart, key: str, canvas: str
) -> None:
    shop.report_shared.delay(key, 3.0)
    wait_start(key)
    duplicate = shop.report_shared.si(key)
    result: Any = {
        "first of a chain": (duplicate | shop.bare.s()).apply_async,
        "last of a chain": (shop.bare.s() | duplicate).apply_async,
        "group": group(duplicate, shop.bare.s()).apply_async,
        "with a callback": duplicate.set(link=[shop.bare.s()]).apply_async,
    }[canvas]()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)


def test_a_key_is_made_of_the_arguments_also_where_they_are_stored_apart(
    blobs: Path, blob_worker: str, key: str
) -> None:
    """The publisher and the worker must see the same key, or its mark would stay when the task has ended."""
    for _ in range(2):
        sent = shop.report_long.apply_async([key * 200], queue=blob_worker)
        assert sent.get(timeout=60) == 200 * len(key)
    assert list(blobs.rglob("*"))


@pytest.mark.one_redis
def test_coalesce_lets_one_run_and_one_wait(ledger: Ledger, wait_start: WaitStart, key: str) -> None:
    first = shop.refresh.delay(key, 0.6)
    wait_start(key)
    second = shop.refresh.delay(key)
    eventually(lambda: second.state == "RETRY", what="the second waits")
    with pytest.raises(TaskRevokedError):
        shop.refresh.delay(key).get(timeout=60)
    assert first.get(timeout=60) == second.get(timeout=60) == key
    entries = [entry["event"] for entry in ledger(key)]
    assert entries == ["start", "finish", "start", "finish"]


def test_a_message_that_the_broker_refuses_keeps_nobody_out(key: str) -> None:
    with pytest.raises(TypeError):
        shop.report_once.apply_async([key], serializer="json", headers={"unserializable": object()})
    assert shop.report_once.delay(key).get(timeout=60) == key


@pytest.mark.one_redis
def test_a_lock_is_free_once_its_child_is_killed(
    start_worker: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    """The killed task's own retry and a new call both find the lock free, long before any lease ends."""
    with start_worker(queues=f"q{key}", concurrency=1, env={"CELERY_PATTERNS_LEASE_SECONDS": "60"}) as worker:
        victim = shop.report.apply_async([key, 1.0], queue=f"q{key}")
        os.kill(wait_start(key)["pid"], signal.SIGKILL)
        wait_start(key, times=2)
        assert victim.get(timeout=60) == key, worker.log()
    first, second = ledger(key, "start")
    assert second["at"] - first["at"] < 20
    assert second["fence"] > first["fence"]


@pytest.mark.one_redis
def test_a_lock_of_a_killed_worker_ends_with_its_lease(
    start_worker: StartWorker, wait_start: WaitStart, key: str
) -> None:
    with start_worker(queues=f"q{key}") as first:
        shop.report.apply_async([key, 30], queue=f"q{key}")
        wait_start(key)
        first.kill()
        killed = time.monotonic()  # noqa: TID251 - real time of a real lease
    with start_worker(queues=f"other{key}") as second:
        due = max(killed + shop.LEASE_SECONDS, time.monotonic())  # noqa: TID251

        def free() -> bool:
            answer = shop.report.apply_async([key], queue=f"other{key}").get(timeout=60, propagate=False)
            return bool(answer == key)

        eventually(free, every=0.1, within=10, what=second.log)
    assert time.monotonic() - due < 5  # noqa: TID251 - a call and its answer; not the thirty seconds of its work


@pytest.mark.one_redis
def test_the_lock_is_kept_while_the_lease_is_renewed(wait_start: WaitStart, key: str) -> None:
    first = shop.report.delay(key, 2.5 * shop.LEASE_SECONDS)
    wait_start(key)
    while not first.ready():
        answer = shop.report.delay(key).get(timeout=60, propagate=False)
        assert isinstance(answer, TaskRevokedError) or first.ready()
        time.sleep(0.1)
    assert first.get(timeout=60) == key


def test_a_retry_by_hand_gives_the_lock_back_first(ledger: Ledger, key: str) -> None:
    assert shop.retry_by_hand.delay(key).get(timeout=60) == 3
    assert len(ledger(key, "start")) == 3


def test_a_call_that_comes_again_counts_as_waiting(key: str) -> None:
    first = shop.report_later.delay(key)
    eventually(lambda: first.state == "RETRY", what=lambda: first.state)
    with pytest.raises(DuplicateCall, match=first.id):
        shop.report_later.delay(key)
    assert first.get(timeout=60) == 2
    assert shop.report_later.delay(key).get(timeout=60) == 2, "it has ended"
