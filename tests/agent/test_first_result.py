"""A result's first look is spared exactly where the claim has shown that nothing is stored."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from celery import states

from agent.stage import Stage
from celery_patterns import protocol
from celery_patterns.agent.first_result import expect_anything, expect_none, spare_first_look
from servers import RedisServer, eventually, redis_server


class Store:
    """A backend's class as far as it matters here: everything was stored already."""

    def __init__(self) -> None:
        self.looked: list[str] = []

    def _get_task_meta_for(self, task_id: str) -> Any:
        self.looked.append(task_id)
        return {"status": states.SUCCESS, "result": 1}

    def mark_as_retry(self, task_id: str, exc: object, **options: object) -> tuple[str, object, object]:
        return look(self, task_id), exc, options


@pytest.fixture
def store() -> Store:
    own = {"_get_task_meta_for": Store._get_task_meta_for, "mark_as_retry": Store.mark_as_retry}
    backend: type[Store] = type("Spared", (Store,), own)
    spare_first_look(backend)
    spare_first_look(backend)
    expect_anything()
    return backend()


def look(store: Store, task_id: str) -> str:
    return str(store._get_task_meta_for(task_id)["status"])


def test_one_look_is_spared_and_the_next_is_real(store: Store) -> None:
    expect_none("a", 60)
    assert [look(store, "a"), look(store, "a")] == [states.PENDING, states.SUCCESS]
    assert store.looked == ["a"]


def test_another_tasks_look_is_real(store: Store) -> None:
    expect_none("a", 60)
    assert look(store, "b") == states.SUCCESS


def test_a_look_after_the_time_is_real(store: Store) -> None:
    """The task may be another worker's by then, which may have stored a success."""
    expect_none("a", 0)
    assert look(store, "a") == states.SUCCESS


def test_nothing_is_expected_once_anything_may_be_there(store: Store) -> None:
    expect_none("a", 60)
    expect_anything()
    assert look(store, "a") == states.SUCCESS


def test_a_retrys_look_is_real(store: Store) -> None:
    """Its message is published already: another worker may have run it and stored the success."""
    expect_none("a", 60)
    assert store.mark_as_retry("a", None, request=1) == (states.SUCCESS, None, {"request": 1})


def gets(stage: Stage) -> int:
    """Return how often the result backend was asked for a single value."""
    return int(stage.store.info("commandstats").get("cmdstat_get", {}).get("calls", 0))


def test_a_workflows_task_on_its_first_start_costs_no_look_and_a_plain_one_does() -> None:
    with ExitStack() as stack, redis_server() as redis:
        stage = Stage(broker=redis, results=redis, stack=stack)
        stack.enter_context(stage.worker(concurrency=1))
        first = stage.record(stage.identity("warm"))
        eventually(lambda: stage.result(first))
        before = gets(stage)
        identities = [stage.record(stage.identity("spared", index)) for index in range(5)]
        # Not stage.result, whose own GET would be counted.
        eventually(lambda: stage.store.exists(*(f"celery-task-meta-{i.task_id}" for i in identities)) == 5)
        assert gets(stage) == before
        plain = stage.send_plain("examples.add", 1, 2, ignore_result=False)
        eventually(lambda: stage.store.exists(f"celery-task-meta-{plain}"))
        assert gets(stage) == before + 1


def test_a_success_that_is_stored_already_is_not_overwritten(redis: RedisServer) -> None:
    """A message that comes once more, without any claim left, finds the result and changes nothing."""
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        stack.enter_context(stage.worker(concurrency=1))
        sent = stage.record(stage.identity("kept"))
        stored = eventually(lambda: stage.result(sent))
        eventually(lambda: stage.claim(sent).get("state") == protocol.CLAIM_DONE)
        assert stage.store.delete(protocol.claim_key(sent.task_id)) == 1
        stage.record(sent)
        other = stage.record(stage.identity("behind"))
        eventually(lambda: stage.result(other))
        assert stage.result(sent) == stored
