"""Batches with real workers: by size, by time, item by item, and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import chord

from celery_patterns.store import Store
from patterns.tasks import shop
from patterns.tasks.conftest import StartWorker
from servers import Worker, eventually

Ledger = Callable[..., list[dict[str, Any]]]

pytestmark = [pytest.mark.every_redis, pytest.mark.usefixtures("worker")]


def test_items_are_worked_off_together_and_each_has_its_result(ledger: Ledger, key: str) -> None:
    results = [shop.insert_rows.delay(table=key, row=number) for number in range(12)]
    assert [result.get(timeout=60) for result in results] == [{"row": n, "tries": 1} for n in range(12)]
    sizes = [entry["size"] for entry in ledger(key, "batch")]
    assert sum(sizes) == 12
    assert max(sizes) <= 5
    assert len(sizes) < 12


def test_a_lone_item_waits_no_longer_than_max_wait(key: str) -> None:
    assert shop.insert_rows.delay(table=key, row="one").get(timeout=60) == {"row": "one", "tries": 1}


def test_items_fail_come_again_and_succeed_by_themselves(key: str) -> None:
    rows = ["good", "bad", "again", "silent"]
    results = dict(zip(rows, [shop.insert_rows.delay(table=key, row=row) for row in rows], strict=True))
    assert results["good"].get(timeout=60) == {"row": "good", "tries": 1}
    assert results["again"].get(timeout=60) == {"row": "again", "tries": 2}
    assert results["silent"].get(timeout=60) is None
    with pytest.raises(shop.Flaky, match="bad"):
        results["bad"].get(timeout=60)


def test_an_item_that_breaks_its_batch_breaks_only_itself(ledger: Ledger, key: str) -> None:
    rows = ["silent", "explode", "silent"]
    results = [shop.insert_rows.delay(table=key, row=row) for row in rows]
    assert results[0].get(timeout=60) is None
    assert results[2].get(timeout=60) is None
    with pytest.raises(shop.Flaky, match="explode"):
        results[1].get(timeout=60)
    assert [entry["size"] for entry in ledger(key, "batch")][-1] == 1


def test_items_work_in_a_chord(key: str) -> None:
    header = [shop.insert_rows.s(table=key, row=number) for number in range(3)]
    body = chord(header)(shop.collect.s())
    answer = shop.app.AsyncResult(body.id).get(timeout=60)
    assert sorted(item["row"] for item in answer) == [0, 1, 2]


@pytest.mark.one_redis
def test_items_of_a_flush_that_was_killed_are_worked_off(start_worker: StartWorker, store: Store, key: str) -> None:
    with start_worker(queues=key, concurrency=2) as worker:
        rows = ["kill", "b", "c", "d", "e"]
        results = [shop.insert_rows.apply_async(kwargs={"table": key, "row": row}, queue=key) for row in rows]
        answers = [result.get(timeout=60) for result in results]
        assert [answer["row"] for answer in answers] == rows, worker.log()
        assert answers[0]["tries"] == 2
        names = [store.key(kind, f"insert_rows:{key}") for kind in ("batch-items", "batch-waiting", "batch-taken")]
        eventually(lambda: store.client.exists(*names) == 0, what="nothing is left of the batch")
        assert store.client.ttl(store.key("batch-state", f"insert_rows:{key}")) != -1, "it would stay for ever"


@pytest.mark.one_redis
@pytest.mark.parametrize(
    ("pool", "arguments"),
    [("prefork", ("--max-tasks-per-child", "1")), ("threads", ())],
    ids=["prefork, recycled", "threads"],
)
def test_letters_of_items_are_counted_like_others(
    start_worker: StartWorker, pool: str, arguments: tuple[str, ...], key: str
) -> None:
    """The process that works the batch off keeps them, and may end at once; the main process tells of them."""
    with start_worker(queues=key, pool=pool, arguments=arguments, agent=True) as worker:
        rows = ["bad", "good", "bad", "explode"]
        calls = [shop.insert_rows.apply_async(kwargs={"table": key, "row": row}, queue=key) for row in rows]
        doomed = shop.doomed.apply_async(["raise"], queue=key)
        assert calls[1].get(timeout=60) == {"row": "good", "tries": 1}
        for failed in (calls[0], calls[2], calls[3], doomed):
            failed.get(timeout=60, propagate=False)
        expected = f'celery_agent_dead_letters_total{{queue="{key}",reason="failed"}} 4.0'
        eventually(lambda: expected in _metrics(worker), within=20, what=lambda: "\n".join(_metrics(worker)))


def _metrics(worker: Worker) -> list[str]:
    return worker.request("/metrics")[1].splitlines()


def test_a_plain_call_works_one_item_off(monkeypatch: pytest.MonkeyPatch, redis: Any, key: str) -> None:
    monkeypatch.setenv("LEDGER_URL", redis.url(2))
    assert shop.insert_rows(table=key, row="x") == {"row": "x", "tries": 1}
