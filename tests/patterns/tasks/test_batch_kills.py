"""Batches under Celery's own settings, whose processes are killed: nobody but they themselves gets the items going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from patterns.tasks.conftest import StartWorker
from servers import RedisServer, eventually


@pytest.mark.parametrize("where", ["flush", "ask"])
def test_items_are_worked_off_after_a_kill_without_another_call(
    start_worker: StartWorker, redis: RedisServer, tmp_path: Path, key: str, where: str
) -> None:
    """In the middle of the flush, or between a call's place in the store and the message for its flush."""
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
        assert [result.get() for result in results] == [0, 2, 4], worker.log()
