"""A claim says when Celery's own retry is due, whoever publishes it: its message may be lost with its worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.stage import Stage
from celery_patterns import protocol
from celery_patterns.protocol import RetryNote
from servers import RedisServer, Worker, eventually

LATER = 600
WITHIN = 30.0


@pytest.fixture(scope="module")
def pair(redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        yield stage, stack.enter_context(stage.worker(app="retried_tasks:app"))


def noted(pair: tuple[Stage, Worker], step: str, task: str, **arguments: Any) -> tuple[float, RetryNote]:
    """Run a task until its first execution is over; return in how many seconds it says that it comes again, and how."""
    stage, worker = pair
    began = time.time()  # noqa: TID251 - the server's clock is this machine's
    sent = stage.send(stage.identity(step), task, kwargs=arguments)
    eventually(
        lambda: stage.claim(sent).get("state") == protocol.CLAIM_DONE,
        within=WITHIN,
        what=lambda: f"{stage.claim(sent)}\n{worker.log()}",
    )
    claim = stage.claim(sent)
    assert stage.store.ttl(protocol.claim_key(sent.task_id)) > protocol.CLAIM_KEEP_SECONDS + LATER - 60
    return int(claim["retry_at"]) / 1000 - began, RetryNote.from_text(claim["retry_with"])


def is_due(seconds: float) -> bool:
    """Whether it is due when it is, and not before, on a machine that may be loaded."""
    return LATER <= seconds < LATER + WITHIN


def test_retry_by_the_task_itself(pair: tuple[Stage, Worker]) -> None:
    seconds, note = noted(pair, "self", "retried.later", countdown=LATER)
    assert (is_due(seconds), note) == (True, RetryNote())


def test_retry_to_another_queue(pair: tuple[Stage, Worker]) -> None:
    seconds, note = noted(pair, "elsewhere", "retried.later", countdown=LATER, queue="elsewhere")
    assert (is_due(seconds), note) == (True, RetryNote("elsewhere"))


def test_deferral_by_the_patterns(pair: tuple[Stage, Worker]) -> None:
    """Without what its header counts, the published-again message would have one try less."""
    seconds, note = noted(pair, "deferred", "retried.deferred", seconds=LATER)
    assert is_due(seconds)
    assert note.queue == ""
    assert note.tries is not None
    assert {name: note.tries[name] for name in ("attempt", "deferrals")} == {"attempt": 1, "deferrals": 1}


def test_retry_after_the_loss_of_the_process(pair: tuple[Stage, Worker]) -> None:
    seconds, note = noted(pair, "killed", "retried.killed")
    assert (is_due(seconds), note) == (True, RetryNote())


@pytest.mark.parametrize("end", ["Ignore", "Reject"])
def test_an_end_without_a_result_is_noted_too(redis: RedisServer, stack: ExitStack, end: str) -> None:
    stage = Stage(broker=redis, results=redis, stack=stack)
    worker = stack.enter_context(stage.worker())
    sent = stage.send(stage.identity(), f"test.{end.lower()}")
    eventually(lambda: stage.claim(sent).get("state") == protocol.CLAIM_DONE, within=WITHIN, what=worker.log)
    assert stage.claim(sent)["rejected"] == end


def test_what_is_not_retried_has_no_such_note(pair: tuple[Stage, Worker]) -> None:
    stage, worker = pair
    sent = stage.record(stage.identity("plain"))
    eventually(lambda: stage.claim(sent).get("state") == protocol.CLAIM_DONE, within=WITHIN, what=worker.log)
    assert set(stage.claim(sent)) == {"state", "token", "worker", "name", "starts", "until"}
