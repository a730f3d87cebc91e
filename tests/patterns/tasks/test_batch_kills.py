"""Batches under Celery's own settings, to which much happens: nobody but they themselves gets the items going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_patterns.tasks import PolicyError, batch_task
from patterns.tasks.conftest import StartWorker
from servers import RedisServer, eventually


@pytest.mark.parametrize(("where", "tries"), [("flush", 2), ("ask", 1), ("limit", 2), ("results", 1)])
def test_items_are_worked_off_without_another_call(
    start_worker: StartWorker, redis: RedisServer, tmp_path: Path, *, key: str, where: str, tries: int
) -> None:
    """SIGKILL in the flush, or before it was asked for; a hard time limit; results that could not be told for a while.

    The last is none of the items' tries, of which they have two.
    """
    env = {
        "CELERY_PATTERNS_STORE_URL": redis.url(7),
        "PLAIN_KILL": where,
        "PLAIN_MARK": str(tmp_path / "mark"),
    }
    with (
        start_worker(app="patterns.tasks.plain_batch:app", queues=key, concurrency=2, env=env) as worker,
        Celery(broker=redis.url(0), backend=redis.url(1), set_as_current=False) as app,
    ):
        results: list[Any] = [app.send_task("plain.add", args=[number], queue=key) for number in range(3)]
        eventually((tmp_path / "mark").exists, within=20, what=worker.log)
        eventually(lambda: all(result.ready() for result in results), within=40, what=worker.log)
        assert [result.get() for result in results] == [[0, tries], [2, tries], [4, tries]], worker.log()


def test_a_result_that_cannot_be_written_is_its_items_failure_alone(
    start_worker: StartWorker, redis: RedisServer, tmp_path: Path, key: str
) -> None:
    env = {"CELERY_PATTERNS_STORE_URL": redis.url(7), "PLAIN_KILL": "nowhere", "PLAIN_MARK": str(tmp_path / "mark")}
    with (
        start_worker(app="patterns.tasks.plain_batch:app", queues=key, concurrency=2, env=env) as worker,
        Celery(broker=redis.url(0), backend=redis.url(1), set_as_current=False) as app,
    ):
        results: list[Any] = [app.send_task("plain.add", args=[value], queue=key) for value in (1, "odd", 2)]
        eventually(lambda: all(result.ready() for result in results), within=40, what=worker.log)
        assert [results[0].get(), results[2].get()] == [[2, 1], [4, 1]]
        with pytest.raises(Exception, match="not JSON serializable"):
            results[1].get()


@pytest.mark.parametrize("option", ["acks_late", "retry_on_worker_lost"])
def test_a_batch_whose_calls_would_not_come_again_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: False}
    with Celery("refused", set_as_current=False) as app, pytest.raises(PolicyError, match=f"batch_task.{option}"):
        batch_task(app, name="refused", **options)
