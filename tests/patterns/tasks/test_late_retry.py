"""RETRY never overwrites how a later try of the same task has ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context

from celery_patterns.tasks import late_retry
from patterns.tasks import shop
from servers import RedisServer

RESULTS = 13


def late() -> None:
    """Do nothing: only what is stored for it matters here."""


@pytest.fixture(params=[True, False], ids=["extended", "bare"])
def app(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[Celery]:
    with Celery("late", set_as_current=False, backend=redis.url(RESULTS)) as app:
        app.conf.result_extended = request.param
        app.task(name="late", shared=False)(late)
        yield app
        app.backend.client.close()


def end(app: Celery, task_id: str, retries: int, state: str = states.FAILURE) -> None:
    context = Context(id=task_id, retries=retries)
    app.backend.store_result(task_id, KeyError("end"), state, request=context)


def publish(app: Celery, task_id: str, retries: int) -> None:
    late_retry.look(app, "late", {"id": task_id, "retries": retries})


def retry(app: Celery, task_id: str, retries: int) -> str:
    request = Context(id=task_id, retries=retries)
    answer = app.backend.mark_as_retry(task_id, KeyError("again"), request=request)
    assert answer == app.backend.prepare_exception(KeyError("again"))  # as without us
    return str(app.AsyncResult(task_id).state)


@pytest.mark.parametrize("state", [states.FAILURE, states.REVOKED])
def test_end_of_a_later_try_stays(app: Celery, state: str) -> None:
    task_id = uuid.uuid4().hex
    publish(app, task_id, 1)
    end(app, task_id, 1, state)
    assert retry(app, task_id, 0) == state


def test_old_end_of_a_task_that_is_sent_again_gives_way(app: Celery) -> None:
    task_id = uuid.uuid4().hex
    end(app, task_id, 3)
    publish(app, task_id, 1)
    assert retry(app, task_id, 0) == states.RETRY
    assert app.backend.client.ttl(app.backend.get_key_for_task(task_id)) > 0


def test_retry_that_nothing_overtakes_is_stored_each_time(app: Celery) -> None:
    task_id = uuid.uuid4().hex
    for retries in (0, 1):
        publish(app, task_id, retries + 1)
        assert retry(app, task_id, retries) == states.RETRY


def test_end_that_comes_between_look_and_writing_stays(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = uuid.uuid4().hex
    publish(app, task_id, 1)
    looked: list[Any] = []

    def has_ended(*args: Any) -> bool:
        looked.append(args)
        answer = real(*args)
        if len(looked) == 1:
            end(app, task_id, 1)
        return answer

    real = late_retry._has_ended
    monkeypatch.setattr(late_retry, "_has_ended", has_ended)
    assert retry(app, task_id, 0) == states.FAILURE
    assert len(looked) == 2


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["overtaken", "overtaken_by_hand"])
def test_failure_of_a_last_try_that_overtakes_reaches_who_waits(name: str, key: str) -> None:
    """The first try goes on to store RETRY only when the second has stored its FAILURE; a plain task, too."""
    sent = shop.app.tasks[name].delay(key)
    with pytest.raises(shop.Flaky):
        sent.get(timeout=40)
    # Long enough tasks for every slot: the first try's has stored by then whatever it had to store.
    for each in [shop.work_a_while.delay() for _ in range(8)]:
        each.get(timeout=40)
    assert shop.app.backend.get_task_meta(sent.id, cache=False)["status"] == states.FAILURE
