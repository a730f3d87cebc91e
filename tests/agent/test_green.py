"""gevent and eventlet: the agent answers and renews from real threads, whatever the greenlets do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.stage import Stage
from celery_patterns import protocol
from celery_patterns.agent.settings import ENV_CLAIM_LEASE, ENV_STORE_PATIENCE
from servers import RedisServer, Worker, eventually, redis_server

Green = tuple[Stage, Worker]


@pytest.fixture(scope="module", params=["gevent", "eventlet"])
def green(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[Green]:
    """A worker of each green pool."""
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        yield stage, stack.enter_context(stage.worker(pool=request.param, concurrency=20))


@pytest.fixture
def worker(green: Green, stack: ExitStack) -> Green:
    """The same worker with a fresh workflow."""
    shared, running = green
    return Stage(broker=shared.broker, results=shared.results, stack=stack, queue=shared.queue), running


def test_worker_answers_while_a_greenlet_lets_nobody_else_run(worker: Green, once: Counter[str]) -> None:
    """A task that computes blocks every other greenlet; its claim, of a lease of two seconds, is renewed meanwhile."""
    stage, running = worker
    sent = stage.send(stage.identity(), "test.compute", stage.identity().task_id, 4)
    stage.wait_ledger(sent.task_id, "start")
    first = int(stage.claim(sent)["until"])
    for path in (protocol.PATH_LIVE, protocol.PATH_READY, protocol.PATH_STARTUP, protocol.PATH_METRICS):
        assert running.request(path)[0] == 200
    assert running.state().active == 1
    eventually(lambda: int(stage.claim(sent)["until"]) > first + 1000, within=3)
    assert "finish" not in stage.ledger()[sent.task_id], "it answered only after the task"
    stage.record(sent)
    stage.wait_ledger(sent.task_id, "finish")
    eventually(lambda: running.state().finished.get("DROPPED", 0) >= 1)
    assert stage.ledger()[sent.task_id] == once


def test_many_tasks_run_at_once_and_once_each(worker: Green, once: Counter[str]) -> None:
    stage, running = worker
    ear = stage.ear()
    sent = [stage.record(stage.identity("many", index), 0.5) for index in range(40)]
    eventually(lambda: running.state().active == 20)
    for identity in sent:
        stage.record(identity)
        ear.wait(identity, protocol.SUCCESS)
    running.wait_state(lambda state: (state.active, state.reserved) == (0, 0))
    assert [stage.ledger()[i.task_id] for i in sent] == [once] * 40


def test_no_connection_is_left_behind_by_a_greenlet(worker: Green) -> None:
    stage, running = worker
    ear = stage.ear()

    def descriptors() -> int:
        return len(list(Path(f"/proc/{running.pid}/fd").iterdir()))

    for index in range(40):
        ear.wait(stage.send(stage.identity("warm", index), "examples.add", 1, 1), protocol.SUCCESS)
    before = descriptors()
    for index in range(60):
        ear.wait(stage.send(stage.identity("more", index), "examples.add", 1, 1), protocol.SUCCESS)
    # A connection left by each greenlet would be 60; pools may still grow by a few when the machine is busy.
    assert descriptors() <= before + 20


def test_green_worker_drains_and_comes_back(worker: Green) -> None:
    stage, running = worker
    held = stage.record(stage.identity("held"), 1)
    stage.wait_ledger(held.task_id, "start")
    running.drain()
    eventually(lambda: running.state().drained, within=15, what=lambda: str(running.state()))
    assert stage.ledger()[held.task_id] == Counter(start=1, finish=1)
    assert "drains: it takes no more tasks" in running.log()
    waits = stage.record(stage.identity("waits"))
    eventually(lambda: stage.waiting() == 1)
    running.resume()
    stage.wait_ledger(waits.task_id, "finish")


def test_store_that_goes_away_is_waited_for(stage: Stage, stack: ExitStack, once: Counter[str]) -> None:
    apart = Stage(broker=stage.broker, results=stack.enter_context(redis_server()), stack=stack)
    env = {ENV_STORE_PATIENCE: "0.5", ENV_CLAIM_LEASE: "2"}
    with apart.worker(pool="gevent", concurrency=4, env=env) as running:
        apart.results.stop()
        sent = apart.record(apart.identity())
        eventually(lambda: "goes back to its queue" in running.log(), what=running.log)
        apart.results.start()
        apart.wait_ledger(sent.task_id, "finish")
        eventually(lambda: running.state().finished.get("SUCCESS") == 1)
        assert apart.ledger()[sent.task_id] == once
