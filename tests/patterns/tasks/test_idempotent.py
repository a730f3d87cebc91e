"""Idempotency with real workers: duplicates, failures, kills, a flush, a store that is away."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import group
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import EncodeError

from celery_patterns.store import Store
from celery_patterns.tasks.errors import DuplicateCall, ResultRefused
from patterns.tasks import shop
from patterns.tasks.conftest import StartWorker
from servers import eventually

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]

PAID = {"paid": True}


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[explicit-override]
        return (open, (self.path, "w"))


pytestmark = [pytest.mark.every_redis, pytest.mark.usefixtures("worker")]


def test_calls_with_one_key_run_once_and_all_get_the_result(ledger: Ledger, key: str) -> None:
    results = [shop.charge.delay(key, 0.2) for _ in range(8)]
    assert [result.get(timeout=60) for result in results] == [{"order": key, "paid": True}] * 8
    assert [entry["event"] for entry in ledger(key)] == ["start", "finish"]


def test_a_canvas_keeps_the_promise(ledger: Ledger, key: str) -> None:
    chord = group(shop.charge.s(key) for _ in range(3)) | shop.collect.s()
    assert shop.app.AsyncResult(chord.delay().id).get(timeout=60) == [{"order": key, "paid": True}] * 3
    assert len(ledger(key, "start")) == 1


def test_a_message_without_the_task_class_keeps_it_too(ledger: Ledger, key: str) -> None:
    first = shop.app.send_task("charge", [key])
    second = shop.app.send_task("charge", [], {"order": key})
    assert first.get(timeout=60) == second.get(timeout=60) == {"order": key, "paid": True}
    assert len(ledger(key, "start")) == 1


def test_a_call_that_failed_may_run_again_with_a_larger_fence(ledger: Ledger, key: str) -> None:
    with pytest.raises(shop.Flaky):
        shop.charge.delay(key, fail=True).get(timeout=60)
    assert shop.charge.delay(key).get(timeout=60) == {"order": key, "paid": True}
    first, second = (entry["fence"] for entry in ledger(key, "start"))
    assert second > first


def test_a_result_that_cannot_be_stored_is_a_failure_and_frees_the_key(ledger: Ledger, key: str) -> None:
    for times in (1, 2):
        with pytest.raises(EncodeError):
            shop.charge_oddly.delay(key).get(timeout=60)
        assert len(ledger(key, "start")) == times


def test_conflict_and_reject_fail_duplicates(wait_start: WaitStart, key: str) -> None:
    first = shop.charge_strictly.delay(key, 0.5)
    wait_start(key)
    with pytest.raises(DuplicateCall, match=f"runs as task {first.id}"):
        shop.charge_strictly.delay(key, 0.5).get(timeout=60)
    assert first.get(timeout=60) == key
    with pytest.raises(DuplicateCall, match=f"has been done by task {first.id}"):
        shop.charge_strictly.delay(key, 0.5).get(timeout=60)


def test_ignore_ends_duplicates_with_none(key: str) -> None:
    assert shop.charge_quietly.delay(key).get(timeout=60) == key
    assert shop.charge_quietly.delay(key).get(timeout=60) is None


def test_a_result_of_a_kind_that_the_application_does_not_read_is_refused(
    store: Store, tmp_path: Path, key: str
) -> None:
    """Whoever can write into the store must not choose what workers unpickle."""
    assert shop.charge.delay(key).get(timeout=60)["paid"]
    [record] = [name for name in store.client.scan_iter("*idempotent*") if key.encode() in name]
    trap = base64.b64encode(pickle.dumps(Trap(str(tmp_path / "sprung")))).decode()
    store.client.hset(record, "result", json.dumps(["application/x-python-serialize", "binary", trap, "base64"]))
    with pytest.raises(ResultRefused, match="its result: Refusing to deserialize"):
        shop.charge.delay(key).get(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_redelivery_of_the_same_task_gets_its_own_result(key: str) -> None:
    first = shop.charge_strictly.apply_async([key], task_id=f"same-{key}")
    assert first.get(timeout=60) == key
    shop.app.backend.delete(shop.app.backend.get_key_for_task(first.id))
    again = shop.charge_strictly.apply_async([key], task_id=first.id)
    assert again.get(timeout=60) == key


@pytest.mark.one_redis
def test_after_the_kill_of_a_child_the_key_is_free_at_once(
    start_worker: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    """The main process gives the claim back; the task's own retry then runs to its end."""
    with start_worker(queues=f"q{key}", concurrency=2) as worker:
        shop.charge.apply_async([key, 30], queue=f"q{key}", task_id=f"victim-{key}")
        pid = wait_start(key)["pid"]
        other = shop.charge.apply_async([key], queue=f"q{key}")
        with pytest.raises(ResultTimeout):
            other.get(timeout=0.3)
        os.kill(pid, signal.SIGKILL)
        assert other.get(timeout=60) == {"order": key, "paid": True}, worker.log()
        first, second = ledger(key, "start")
        assert second["fence"] > first["fence"]


@pytest.mark.one_redis
def test_after_the_kill_of_a_whole_worker_the_next_one_runs_it(
    start_worker: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    with start_worker(queues=f"q{key}", env={"SHOP_VISIBILITY": "2"}) as first:
        result = shop.charge.apply_async([key, 1.5], queue=f"q{key}")
        wait_start(key)
        first.kill()
    with start_worker(queues=f"q{key}", env={"SHOP_VISIBILITY": "2"}) as second:
        assert result.get(timeout=60) == {"order": key, "paid": True}, second.log()
    assert [entry["event"] for entry in ledger(key)] == ["start", "start", "finish"]


@pytest.mark.one_redis
def test_a_flush_in_mid_run_loses_the_memory_and_nothing_else(
    store: Store, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    """What runs commits after the flush, unless another execution began meanwhile: then that one's result counts."""
    result = shop.charge.delay(key, 1.0)
    wait_start(key)
    for name in store.client.scan_iter("{celery-patterns}:*"):
        store.client.delete(name)
    duplicate = shop.charge.delay(key, 1.0)
    assert result.get(timeout=60) == duplicate.get(timeout=60) == {"order": key, "paid": True}
    assert len(ledger(key, "start")) == 2
    assert shop.charge.delay(key).get(timeout=60) == {"order": key, "paid": True}
    assert len(ledger(key, "start")) == 2


def test_every_key_has_a_ttl(store: Store, wait_start: WaitStart, key: str) -> None:
    result = shop.charge.delay(key, 0.5)
    wait_start(key)
    during = _ttls(store)
    result.get(timeout=60)
    assert min(during.values()) > 0
    assert min(eventually(lambda: _ttls(store)).values()) > 0


def _ttls(store: Store) -> dict[bytes, int]:
    return {
        name: ttl for name in store.client.scan_iter("{celery-patterns}:*") if (ttl := store.client.pttl(name)) != -2
    }
