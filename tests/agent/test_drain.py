"""A drained worker took nothing more, finished what it held, and lost and repeated nothing."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.stage import BROKER_DB, Stage
from celery_patterns import protocol
from servers import RabbitServer, RedisServer, Worker, eventually, rabbitmq_server


def run_hook(worker: Worker, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run the preStop command as kubelet does, in the worker's environment."""
    env = {
        **os.environ,
        protocol.ENV_AGENT_ADDRESS_FILE: str(worker.directory / "address"),
        protocol.ENV_AGENT_TOKEN_FILE: str(worker.directory / "token"),
    }
    command = [sys.executable, "-m", "celery_patterns.agent", "drain", "--timeout-seconds", str(seconds)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


VICTIMS: tuple[tuple[str, list[str]], ...] = (
    ("prefork", ["--prefetch-multiplier", "4"]),
    ("prefork", ["--disable-prefetch"]),  # kombu then holds a message that it has popped and not delivered
    ("threads", ["--prefetch-multiplier", "4"]),
    ("solo", []),
)

BACKLOG = 100
"""So many messages wait at most: always one to take, and no more than a slow machine's survivor takes in a moment."""


@pytest.mark.parametrize("task", ["examples.ledger.record", "examples.ledger.record_early"])
def test_draining_under_load_loses_and_repeats_nothing(stage: Stage, task: str, once: Counter[str]) -> None:
    """Four workers in turn are drained and killed while messages keep coming; late and early acknowledgement.

    Every second message is no workflow's, so that the guard cannot hide a repetition.
    """
    sent: list[str] = []
    stopping = threading.Event()

    def publish() -> None:
        with ExitStack() as stack:
            own = Stage(broker=stage.broker, results=stage.results, stack=stack, queue=stage.queue, uid=stage.uid)
            while not stopping.wait(0.004):
                if own.waiting() >= BACKLOG:
                    continue
                identity = own.identity("load", len(sent))
                if len(sent) % 2:
                    own.record(identity, task=task)
                else:
                    own.send_plain(task, identity.task_id)
                sent.append(identity.task_id)

    with stage.worker(concurrency=2) as survivor:
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            for pool, arguments in VICTIMS:
                with stage.worker(concurrency=2, pool=pool, arguments=arguments) as victim:
                    eventually(lambda victim=victim: victim.state().finished.get("SUCCESS", 0) > 20)  # type: ignore[misc]
                    victim.drain()
                    eventually(lambda victim=victim: victim.state().drained, what=victim.log)  # type: ignore[misc]
                    ended = victim.state().finished
                    victim.kill()  # drained: nothing it could still lose
                    assert set(ended) == {"SUCCESS"}
        finally:
            stopping.set()
            publisher.join()
        eventually(lambda: stage.waiting() == 0 and survivor.state().active == 0, within=30)
        eventually(lambda: len(stage.ledger().keys() & set(sent)) == len(sent), within=30)
        eventually(lambda: survivor.state().active == 0)
        ledger = stage.ledger()
    assert {key: ledger.get(key) for key in sent} == dict.fromkeys(sent, once)


@pytest.fixture(scope="module")
def single(redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    """A worker with one slot that takes four messages."""
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        yield stage, stack.enter_context(stage.worker(arguments=["--prefetch-multiplier", "4"]))


@pytest.fixture
def worker(single: tuple[Stage, Worker]) -> Iterator[tuple[Stage, Worker]]:
    """The same worker, consuming again after the test."""
    stage, running = single
    yield stage, running
    running.resume()
    eventually(lambda: running.state().ready)


Single = tuple[Stage, Worker]


def held(state: protocol.WorkerState) -> tuple[int, int]:
    """How many tasks run, and how many wait for a slot."""
    return state.active, state.reserved


def test_state_counts_what_is_active_reserved_and_scheduled(worker: Single) -> None:
    stage, running = worker
    step = stage.identity("count")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)  # noqa: TID251 - a real eta
    stage.record(stage.identity("count", 9), eta=later)
    eventually(lambda: running.state().scheduled == 1)
    for index in range(3):
        stage.record(stage.identity(step.step, index), 0.8)
    state = running.wait_state(lambda state: held(state) == (1, 2) and state.oldest_active_seconds > 0)
    assert (state.slots, state.scheduled, state.scheduled_due, state.idle_seconds) == (1, 1, 0, 0.0)
    assert (state.ready, state.draining, state.queues) == (True, False, (stage.queue,))
    assert state.oldest_active_seconds < 1
    assert (state.oldest_seconds, state.delay_seconds) == (None, None), "no message says when it was published"
    running.drain()
    running.wait_state(lambda state: held(state) == (0, 0), within=15)
    eventually(lambda: running.state().drained, within=15)
    assert Counter(stage.ledger()[stage.identity("count", 9).task_id]) == Counter(start=1, finish=1)
    eventually(lambda: running.state().idle_seconds > 0.2)


def test_state_tells_the_age_of_the_oldest_message_and_the_delay_seen(worker: Single) -> None:
    stage, running = worker
    now = float(stage.store.time()[0])
    for age in (100, 300, 50):
        stage.record(stage.identity("age", age), 0.4, headers={protocol.PUBLISHED_AT_HEADER: now - age})
    state = running.wait_state(lambda state: held(state) == (1, 2) and state.delay_seconds is not None)
    assert state.oldest_seconds is not None
    assert 300 <= state.oldest_seconds < 330
    assert state.delay_seconds is not None
    assert 100 <= state.delay_seconds < 130
    state = running.wait_state(lambda state: held(state) == (0, 0))
    assert state.oldest_seconds is None
    assert state.delay_seconds is not None
    assert 300 <= state.delay_seconds < 330, "the longest of the last"


def test_scheduled_task_keeps_a_worker_from_being_drained(worker: Single) -> None:
    stage, running = worker
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.5)  # noqa: TID251 - a real eta
    sent = stage.record(stage.identity("eta"), eta=later)
    eventually(lambda: running.state().scheduled == 1)
    running.drain()
    while sent.task_id not in stage.ledger():
        state = running.state()
        assert not state.drained or sent.task_id in stage.ledger()
    eventually(lambda: running.state().drained)


def test_draining_worker_takes_nothing_until_it_is_resumed(worker: Single) -> None:
    stage, running = worker
    assert running.drain().draining
    eventually(lambda: running.state().drained)
    assert running.request(protocol.PATH_READY)[0] == 503
    assert running.request(protocol.PATH_STARTUP)[0] == 200
    sent = stage.record(stage.identity("waits"))
    assert running.drain().draining, "asking twice is no error"
    eventually(lambda: stage.waiting() == 1)
    assert not running.resume().draining
    stage.wait_ledger(sent.task_id, "finish")
    assert running.request(protocol.PATH_READY)[0] == 200


def test_drain_outlives_a_lost_broker_connection(worker: Single) -> None:
    stage, running = worker
    running.drain()
    eventually(lambda: running.state().drained)
    connected = running.log().count("Connected to redis")
    with stage.broker.client(BROKER_DB) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
    eventually(lambda: running.log().count("Connected to redis") > connected, what=running.log)
    sent = stage.record(stage.identity("after reconnect"))
    eventually(lambda: running.state().drained)
    assert stage.waiting() == 1
    running.resume()
    stage.wait_ledger(sent.task_id, "finish")


def test_prestop_command_waits_until_the_worker_is_drained(worker: Single) -> None:
    stage, running = worker
    sent = stage.record(stage.identity("hook"), 1)
    stage.wait_ledger(sent.task_id, "start")
    done = run_hook(running, 20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("drained after ")
    assert stage.ledger()[sent.task_id] == Counter(start=1, finish=1)


def test_prestop_command_gives_up_at_its_deadline(worker: Single) -> None:
    stage, running = worker
    sent = stage.record(stage.identity("long"), 2)
    stage.wait_ledger(sent.task_id, "start")
    done = run_hook(running, 0.5)
    assert (done.returncode, done.stdout) == (0, "not drained within 0.5 s: 1 active, 0 reserved, 0 scheduled\n")


def test_prestop_command_ends_where_there_is_no_agent(tmp_path: object) -> None:
    env = {**os.environ, protocol.ENV_AGENT_ADDRESS_FILE: f"{tmp_path}/none", protocol.ENV_AGENT_PORT: "1"}
    command = [sys.executable, "-m", "celery_patterns.agent", "drain", "--timeout-seconds", "30"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("not drained: no answer from the worker's agent at 127.0.0.1:1")


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitServer]:
    with rabbitmq_server() as server:
        yield server


def test_draining_on_rabbitmq_loses_and_repeats_nothing(
    rabbitmq: RabbitServer, stage: Stage, once: Counter[str]
) -> None:
    with ExitStack() as stack:
        stage = Stage(broker=stage.broker, results=stage.results, stack=stack, broker_url=rabbitmq.url())
        with stage.worker(concurrency=2) as survivor, stage.worker(concurrency=2) as victim:
            sent = [stage.record(stage.identity("rabbit", index), 0.005) for index in range(300)]
            eventually(lambda: victim.state().finished.get("SUCCESS", 0) > 5)
            victim.drain()
            eventually(lambda: victim.state().drained)
            victim.kill()
            eventually(lambda: len(stage.ledger().keys() & {i.task_id for i in sent}) == 300, within=30)
            eventually(lambda: survivor.state().active == 0)
            ledger = stage.ledger()
        assert {i.task_id: ledger.get(i.task_id) for i in sent} == {i.task_id: once for i in sent}
