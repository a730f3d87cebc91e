"""The operator hears how every attempt ended, from the worker's main process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
import redis as redis_py

from agent.stage import RESULT_DB, Ear, Stage
from celery_patterns import protocol
from servers import RedisServer, Worker, celery_worker, eventually, redis_server


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def worker(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    """One worker of each pool, for all tests that do not harm it."""
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        yield stage, stack.enter_context(stage.worker(pool=request.param))


@pytest.fixture
def everywhere(worker: tuple[Stage, Worker], stack: ExitStack) -> tuple[Stage, Worker, Ear]:
    """A fresh workflow on the shared worker, with an ear."""
    shared, running = worker
    stage = Stage(broker=shared.broker, results=shared.results, stack=stack, queue=shared.queue)
    return stage, running, stage.ear()


Everywhere = tuple[Stage, Worker, Ear]


def test_small_success_travels_with_its_value(everywhere: Everywhere) -> None:
    stage, worker, ear = everywhere
    sent = stage.send(stage.identity(), "examples.add", 4, 4)
    heard = ear.wait(sent, protocol.SUCCESS)
    hostname = worker.state().hostname
    assert heard == protocol.Announcement(sent, protocol.SUCCESS, size=1, value=8, has_value=True, worker=hostname)
    stored = stage.result(sent)
    assert stored is not None, "the announcement came before the result was stored"
    assert stored["result"] == 8


def test_large_success_travels_without_its_value_but_with_its_size(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), "test.text", protocol.INLINE_VALUE_BYTES)
    heard = ear.wait(sent, protocol.SUCCESS)
    assert (heard.has_value, heard.value) == (False, None)
    assert heard.size == len(stage.store.get(f"{protocol.RESULT_KEY_PREFIX}{sent.task_id}") or b"")


def test_none_is_a_value_too(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), "test.slow_limited")
    heard = ear.wait(sent, protocol.SUCCESS)
    assert (heard.has_value, heard.value, heard.size) == (True, None, 4)


@pytest.mark.parametrize(
    ("task", "arguments", "exception", "message"),
    [
        pytest.param("examples.fail", ["boom"], "RuntimeError", "boom", id="an exception"),
        pytest.param("test.odd", [], "Odd", None, id="an exception that cannot be pickled"),
        pytest.param(
            "examples.not_json", [], "EncodeError", "Object of type object is not JSON serializable", id="not JSON"
        ),
        pytest.param(
            "no.such.task",
            [],
            "NotRegistered",
            "this worker knows no task named 'no.such.task': is its module imported by the application?",
            id="an unknown task",
        ),
        pytest.param(
            "examples.fail", ["é" * 1000], "RuntimeError", "é" * protocol.MESSAGE_CHARACTERS, id="a long message is cut"
        ),
    ],
)
def test_failure_names_its_exception(
    everywhere: Everywhere, task: str, arguments: list[str], exception: str, message: str | None
) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), task, *arguments)
    heard = ear.wait(sent, protocol.FAILURE, protocol.SUCCESS)
    assert (heard.state, heard.exception, heard.has_value) == (protocol.FAILURE, exception, False)
    if message is not None:
        assert heard.message == message
    stored = stage.result(sent)
    assert stored is not None
    assert stored["status"] == "FAILURE"


def test_retry_is_announced_and_its_second_run_under_the_same_id(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), "test.retry_once", "value")
    assert ear.wait(sent, protocol.SUCCESS).value == ["value", ["value"]]
    assert [a.state for a in ear.about(sent) if a.state != protocol.STARTED] == [protocol.RETRY, protocol.SUCCESS]


@pytest.mark.parametrize("task", ["test.reject", "test.ignore"])
def test_message_that_its_task_throws_away_is_announced_as_rejected(everywhere: Everywhere, task: str) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), task)
    assert ear.wait(sent, protocol.REJECTED).exception == {"test.reject": "Reject", "test.ignore": "Ignore"}[task]


def test_task_that_lasts_is_announced_as_started_within_its_first_moments(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), "examples.sleep", 0.6)
    ear.wait(sent, protocol.SUCCESS)
    assert [a.state for a in ear.about(sent)] == [protocol.STARTED, protocol.SUCCESS]


def test_expired_message_is_announced_as_revoked(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    sent = stage.send(stage.identity(), "examples.add", 1, 1, expires=-1)
    heard = ear.wait(sent, protocol.REVOKED)
    assert (heard.exception, heard.message) == ("TaskRevokedError", "expired")


def test_message_of_an_unknown_protocol_or_no_workflow_runs_unannounced(everywhere: Everywhere) -> None:
    stage, _, ear = everywhere
    before = len(ear.heard)
    header = {**stage.identity().to_header(), "v": 99}
    for task_id in (stage.send_plain("examples.add", 1, 1, header=header), stage.send_plain("examples.add", 1, 2)):
        key = f"{protocol.RESULT_KEY_PREFIX}{task_id}"
        eventually(partial(stage.store.exists, key), what=key)
    last = stage.send(stage.identity(), "examples.add", 1, 3)
    ear.wait(last, protocol.SUCCESS)
    assert [a.identity for a in ear.heard[before:]] == [last]


@pytest.fixture
def prefork(stage: Stage) -> Iterator[tuple[Stage, Worker, Ear]]:
    """A prefork worker of the test's own, and an ear."""
    with stage.worker(concurrency=2) as worker:
        yield stage, worker, stage.ear()


def test_hard_time_limit_is_a_failure_by_that_name(prefork: Everywhere) -> None:
    stage, _, ear = prefork
    sent = stage.send(stage.identity(), "examples.sleep", 30, time_limit=0.5)
    assert ear.wait(sent, protocol.FAILURE).exception == "TimeLimitExceeded"
    after = stage.send(stage.identity("after"), "examples.add", 1, 1)
    ear.wait(after, protocol.SUCCESS)
    assert [a.state for a in ear.about(sent)] == [protocol.STARTED, protocol.FAILURE], "announced more than once"


def test_running_task_that_is_terminated_is_announced_as_revoked(prefork: Everywhere) -> None:
    stage, _, ear = prefork
    sent = stage.send(stage.identity(), "examples.sleep", 30)
    ear.wait(sent, protocol.STARTED)
    stage.app.control.revoke(sent.task_id, terminate=True, signal="SIGKILL", connection=stage.connection)
    ear.wait(sent, protocol.REVOKED)
    eventually(lambda: stage.claim(sent)["state"] == protocol.CLAIM_DONE)


def test_last_announcements_leave_before_the_worker_ends(prefork: Everywhere) -> None:
    stage, worker, ear = prefork
    sent = stage.send(stage.identity(), "examples.sleep", 0.5)
    ear.wait(sent, protocol.STARTED)
    assert worker.stop() == 0
    ear.wait(sent, protocol.SUCCESS)
    assert stage.claim(sent)["state"] == protocol.CLAIM_DONE


def test_what_could_not_be_announced_is_announced_later(redis: RedisServer, stack: ExitStack) -> None:
    """The store takes results but no announcements for a while; the worker keeps what it could not say."""
    with redis_server() as results:
        stage = Stage(broker=redis, results=results, stack=stack)
        stage.store.execute_command("ACL", "SETUSER", "listener", "on", "nopass", "~*", "&*", "+@all")
        listener = redis_py.Redis(
            host="127.0.0.1", port=results.port, db=RESULT_DB, username="listener", password="any"
        )
        stack.callback(listener.close)
        ear = Ear(listener, protocol.announce_channel(RESULT_DB))
        stack.callback(ear.close)
        with stage.worker() as worker:
            stage.store.execute_command("ACL", "SETUSER", "default", "resetchannels", "&celery-task-meta-*")
            sent = [stage.send(stage.identity("kept", index), "examples.add", index, 1) for index in range(3)]
            eventually(lambda: "ends wait" in worker.log(), what=worker.log)
            eventually(lambda: worker.state().finished == {"SUCCESS": 3})
            assert ear.about(sent[0]) == []
            stage.store.execute_command("ACL", "SETUSER", "default", "allchannels")
            assert [ear.wait(identity, protocol.SUCCESS).value for identity in sent] == [1, 2, 3]
            eventually(lambda: stage.claim(sent[0])["state"] == protocol.CLAIM_DONE)


def test_backend_without_claims_is_named_and_tasks_run(stage: Stage, tmp_path: object) -> None:
    with celery_worker(
        broker=stage.broker.url(0), backend=f"file://{tmp_path}", queues=stage.queue, pool="solo"
    ) as worker:
        sent = stage.send(stage.identity(), "examples.add", 2, 2)
        eventually(lambda: worker.state().finished == {"SUCCESS": 1}, what=worker.log)
        assert "keeps no claims" in worker.log()
        reference = protocol.ResultReference(uid=sent.uid, run=1, step="step").to_json()
        stage.send(stage.identity("second"), "examples.add", reference, 1)
        eventually(lambda: worker.state().finished == {"SUCCESS": 2}, what=worker.log)
