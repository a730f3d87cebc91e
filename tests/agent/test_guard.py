"""An attempt of a workflow's task runs once, whatever is published, delivered or killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.stage import BROKER_DB, Stage
from celery_patterns import protocol
from celery_patterns.agent.settings import ENV_CLAIM_LEASE, ENV_STORE_PATIENCE
from servers import RedisServer, Worker, eventually, redis_server

LEASE_SECONDS = 2
"""The lease of every worker in these tests."""


@pytest.fixture(scope="module")
def pair(redis: RedisServer) -> Iterator[tuple[Stage, Worker, Worker]]:
    """Two workers of one queue, for tests that do not harm them."""
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        first = stack.enter_context(stage.worker(concurrency=2))
        second = stack.enter_context(stage.worker(pool="threads", concurrency=2))
        yield stage, first, second


@pytest.fixture
def two(pair: tuple[Stage, Worker, Worker], stack: ExitStack) -> tuple[Stage, Worker, Worker]:
    """A fresh workflow on the two workers."""
    shared, first, second = pair
    return Stage(broker=shared.broker, results=shared.results, stack=stack, queue=shared.queue), first, second


Two = tuple[Stage, Worker, Worker]


def dropped(*workers: Worker) -> int:
    return sum(worker.state().finished.get("DROPPED", 0) for worker in workers)


def give_back(stage: Stage) -> int:
    """Let kombu give the stage's messages that workers hold back to their queue, as after the visibility timeout."""
    channel = stage.connection.default_channel
    held = stage.broker_client.hgetall("unacked")
    tags = [tag.decode() for tag, message in held.items() if json.loads(message)[2] == stage.queue]
    for tag in tags:
        channel.qos.restore_by_tag(tag)
    return len(tags)


@pytest.mark.every_redis
def test_duplicate_of_a_finished_attempt_is_dropped(two: Two, once: Counter[str]) -> None:
    stage, *workers = two
    before = dropped(*workers)
    sent = stage.record(stage.identity())
    eventually(lambda: stage.claim(sent).get("state") == protocol.CLAIM_DONE)
    for _ in range(3):
        stage.record(sent)
    eventually(lambda: dropped(*workers) == before + 3)
    assert stage.ledger()[sent.task_id] == once
    assert 0 < stage.store.ttl(protocol.claim_key(sent.task_id)) <= protocol.CLAIM_KEEP_SECONDS


@pytest.mark.every_redis
def test_workers_that_race_for_duplicates_run_each_once(two: Two, once: Counter[str]) -> None:
    stage, *workers = two
    before = dropped(*workers)
    identities = [stage.identity("race", index) for index in range(25)]
    for identity in identities:
        for _ in range(4):
            stage.record(identity, 0.02)
    eventually(lambda: dropped(*workers) == before + 75, within=20)
    eventually(lambda: all(stage.claim(i).get("state") == protocol.CLAIM_DONE for i in identities))
    assert [stage.ledger()[i.task_id] for i in identities] == [once] * 25


def test_another_attempt_and_another_run_are_no_duplicates(two: Two, once: Counter[str]) -> None:
    stage, *_ = two
    identities = [stage.identity(), stage.identity(attempt=2), stage.identity(index=1), stage.identity("other")]
    for identity in identities:
        stage.record(identity)
    for identity in identities:
        stage.wait_ledger(identity.task_id, "finish")
        assert stage.ledger()[identity.task_id] == once


def test_task_that_outlasts_its_lease_stays_claimed(two: Two, once: Counter[str]) -> None:
    stage, *workers = two
    before = dropped(*workers)
    sent = stage.record(stage.identity(), LEASE_SECONDS * 1.8)
    stage.wait_ledger(sent.task_id, "start")
    first_lease = int(stage.claim(sent)["until"])
    eventually(lambda: int(stage.claim(sent)["until"]) > first_lease + LEASE_SECONDS * 500, within=5)
    stage.record(sent)
    eventually(lambda: dropped(*workers) == before + 1)
    stage.wait_ledger(sent.task_id, "finish")
    assert stage.ledger()[sent.task_id] == once
    assert stage.claim(sent)["starts"] == "1"


def test_attempt_with_a_final_result_but_no_claim_is_dropped(two: Two) -> None:
    stage, *workers = two
    before = dropped(*workers)
    sent = stage.identity()
    record: dict[str, Any] = {
        "status": "SUCCESS",
        "result": 1,
        "traceback": None,
        "children": [],
        "task_id": sent.task_id,
    }
    stage.store.set(f"{protocol.RESULT_KEY_PREFIX}{sent.task_id}", json.dumps(record))
    stage.record(sent)
    eventually(lambda: dropped(*workers) == before + 1)
    assert sent.task_id not in stage.ledger()
    assert stage.claim(sent) == {"state": protocol.CLAIM_DONE}


def test_attempt_with_a_result_that_is_not_final_runs(two: Two, once: Counter[str]) -> None:
    stage, *_ = two
    sent = stage.identity()
    record: dict[str, Any] = {
        "status": "STARTED",
        "result": {},
        "traceback": None,
        "children": [],
        "task_id": sent.task_id,
    }
    stage.store.set(f"{protocol.RESULT_KEY_PREFIX}{sent.task_id}", json.dumps(record))
    stage.record(sent)
    stage.wait_ledger(sent.task_id, "finish")
    assert stage.ledger()[sent.task_id] == once


def test_abandoned_attempt_is_dropped(two: Two) -> None:
    stage, *workers = two
    before = dropped(*workers)
    sent = stage.identity()
    stage.store.hset(protocol.claim_key(sent.task_id), "state", protocol.CLAIM_ABANDONED)
    stage.record(sent)
    eventually(lambda: dropped(*workers) == before + 1)
    assert sent.task_id not in stage.ledger()


def test_message_given_back_while_its_worker_lives_is_dropped(two: Two, once: Counter[str]) -> None:
    """A task longer than the broker's visibility timeout comes back although it runs."""
    stage, *workers = two
    before = dropped(*workers)
    sent = stage.record(stage.identity(), LEASE_SECONDS * 1.5)
    stage.wait_ledger(sent.task_id, "start")
    assert give_back(stage) == 1
    eventually(lambda: dropped(*workers) == before + 1)
    stage.wait_ledger(sent.task_id, "finish")
    assert stage.ledger()[sent.task_id] == once


def test_killed_worker_loses_its_claim_by_its_lease_and_no_sooner(stage: Stage) -> None:
    with stage.worker() as doomed, stage.worker(queues=f"{stage.queue}-2") as heir:
        sent = stage.record(stage.identity(), 1.5)
        stage.wait_ledger(sent.task_id, "start")
        doomed.kill()
        assert stage.claim(sent)["state"] == protocol.CLAIM_RUNNING
        # Published again while the lease runs: dropped. The dead worker's message may still come back.
        stage.record(sent, queue=f"{stage.queue}-2")
        eventually(lambda: dropped(heir) == 1)
        assert stage.ledger()[sent.task_id] == Counter(start=1)
        # Published again after it: runs.
        eventually(lambda: int(stage.claim(sent)["until"]) < _now_ms(stage), within=LEASE_SECONDS + 2)
        stage.record(sent, queue=f"{stage.queue}-2")
        stage.wait_ledger(sent.task_id, "finish")
        assert stage.ledger()[sent.task_id] == Counter(start=2, finish=1)
        assert stage.claim(sent)["starts"] == "2"


def _now_ms(stage: Stage) -> int:
    seconds, micros = stage.store.time()
    return int(seconds * 1000 + micros / 1000)


def test_killed_workers_message_waits_for_the_lease_and_runs(stage: Stage) -> None:
    """A message that the broker gives back may be the only copy: it is not dropped while its last lease runs."""
    with stage.worker() as doomed:
        sent = stage.record(stage.identity(), 60)
        stage.wait_ledger(sent.task_id, "start")
        doomed.kill()
    with stage.worker() as heir:
        stage.store.hset(protocol.claim_key(sent.task_id), "until", str(_now_ms(stage) + LEASE_SECONDS * 1000))
        assert give_back(stage) == 1
        eventually(lambda: heir.state().active == 1)
        assert stage.ledger()[sent.task_id] == Counter(start=1), "it ran before the lease was over"
        stage.wait_ledger(sent.task_id, "start", times=2)
        assert dropped(heir) == 0
        heir.kill()


def test_lost_child_ends_its_attempt(stage: Stage) -> None:
    with stage.worker(concurrency=2) as worker:
        ear = stage.ear()
        sent = stage.send(stage.identity(), "test.die", stage.identity().task_id)
        assert ear.wait(sent, protocol.FAILURE, within=15).exception == "WorkerLostError"
        eventually(lambda: stage.claim(sent)["state"] == protocol.CLAIM_DONE)
        stage.send(sent, "test.die", sent.task_id)
        eventually(lambda: dropped(worker) == 1)
        assert stage.ledger()[sent.task_id] == Counter(start=1)


def test_task_that_gives_its_message_back_is_claimed_again(stage: Stage) -> None:
    """A cold shutdown requeues what runs; the claim goes with it, so the next worker need not wait for the lease."""
    with stage.worker(env={ENV_CLAIM_LEASE: "60"}) as first:
        sent = stage.record(stage.identity(), 60)
        stage.wait_ledger(sent.task_id, "start")
        os.kill(first.pid, signal.SIGQUIT)
        first.process.wait(15)
    with stage.worker(env={ENV_CLAIM_LEASE: "60"}) as second:
        stage.wait_ledger(sent.task_id, "start", times=2)
        second.kill()


@pytest.fixture
def apart(redis: RedisServer, stack: ExitStack) -> Stage:
    """A broker and, on another server, results that can go away."""
    return Stage(broker=redis, results=stack.enter_context(redis_server()), stack=stack)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_unclaimable_message_goes_back_to_its_queue_and_runs_when_the_store_is_back(
    apart: Stage, pool: str, once: Counter[str]
) -> None:
    with apart.worker(pool=pool, env={ENV_STORE_PATIENCE: "0.5"}) as worker:
        apart.results.stop()
        sent = apart.record(apart.identity())
        eventually(lambda: worker.log().count("goes back to its queue") >= 2, what=worker.log)
        assert apart.ledger().get(sent.task_id) is None, "it ran without a claim"
        apart.results.start()
        apart.wait_ledger(sent.task_id, "finish")
        eventually(lambda: worker.state().finished.get("SUCCESS") == 1)
        assert apart.ledger()[sent.task_id] == once
    assert apart.waiting() == 0


def test_acknowledged_message_waits_for_the_store(apart: Stage, once: Counter[str]) -> None:
    """With early acknowledgement there is no queue to go back to."""
    with apart.worker(env={ENV_STORE_PATIENCE: "0.3"}) as worker:
        apart.results.stop()
        sent = apart.record(apart.identity(), task="examples.ledger.record_early")
        eventually(lambda: "still waits" in worker.log(), what=worker.log)
        assert apart.ledger().get(sent.task_id) is None, "it ran without a claim"
        apart.results.start()
        apart.wait_ledger(sent.task_id, "finish")
        assert apart.ledger()[sent.task_id] == once


def test_connection_that_the_store_closed_is_made_again_at_once(apart: Stage, once: Counter[str]) -> None:
    with apart.worker() as worker:
        first = apart.record(apart.identity("first"))
        apart.wait_ledger(first.task_id, "finish")
        apart.store.client_kill_filter(_type="normal", skipme=True)
        second = apart.record(apart.identity("second"))
        apart.wait_ledger(second.task_id, "finish")
        assert apart.ledger()[second.task_id] == once
        assert "cannot be claimed" not in worker.log()


def test_key_prefix_of_the_result_backend_is_honoured(stage: Stage) -> None:
    """Celery appends an underscore to a prefix that ends in no separator; claims and channel follow it."""
    with stage.worker(pool="solo", env={"TEST_KEY_PREFIX": "shop"}) as worker:
        ear = stage.ear(key_prefix="shop_")
        sent = stage.send(stage.identity(), "examples.add", 1, 2)
        assert ear.wait(sent, protocol.SUCCESS).value == 3
        reference = protocol.ResultReference(uid=sent.uid, run=1, step="step").to_json()
        second = stage.send(stage.identity("second"), "examples.add", reference, 4)
        assert ear.wait(second, protocol.SUCCESS).value == 7
        stage.send(sent, "examples.add", 1, 2)
        eventually(lambda: dropped(worker) == 1)
    keys: list[Any] = sorted(stage.store.keys("*" + sent.task_id + "*"))
    assert keys == [
        f"shop_{protocol.CLAIM_PREFIX}{sent.task_id}:0".encode(),
        f"shop_celery-task-meta-{sent.task_id}".encode(),
    ]


def test_broker_restart_repeats_nothing(stage: Stage, once: Counter[str]) -> None:
    """After a lost connection kombu gives back what the worker holds, also what it is running."""
    with stage.worker(concurrency=2) as worker:
        sent = [stage.record(stage.identity("slow", index), 1.5) for index in range(2)]
        for identity in sent:
            stage.wait_ledger(identity.task_id, "start")
        with stage.broker.client(BROKER_DB) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        later = [stage.record(stage.identity("later", index)) for index in range(5)]
        for identity in sent + later:
            stage.wait_ledger(identity.task_id, "finish")
        worker.wait_state(lambda state: (state.active, state.reserved) == (0, 0))
        eventually(lambda: stage.waiting() == 0)
        assert [stage.ledger()[i.task_id] for i in sent + later] == [once] * 7
