"""A message that kills whatever runs it is run so often and no more, whatever dies with it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience.poison import COUNT, Deliveries
from celery_patterns.store import Store, StoreSettings
from patterns.resilience.clocked import ClockedStore
from patterns.resilience.stage import Stage
from servers import RabbitServer, RedisServer, eventually, redis_server

MAX_DELIVERIES = 2


@pytest.fixture
def stage(redis: RedisServer, broker: str) -> Iterator[Stage]:
    with Stage.on(redis, broker) as stage:
        yield stage


def test_message_that_kills_its_container_is_buried_after_so_many_deliveries(stage: Stage) -> None:
    """Main process and children go together, as when the kernel kills a container; a new one starts each time."""
    sent = stage.send("die_whole", stage.queue)
    env = {"CELERY_PATTERNS_MAX_DELIVERIES": str(MAX_DELIVERIES)}
    for _ in range(MAX_DELIVERIES):
        with stage.worker(env=env, wait_ready=False) as worker:
            worker.process.wait(20)
    assert stage.ran(stage.queue) == MAX_DELIVERIES
    assert stage.state(sent) == "PENDING"
    with stage.worker(env=env) as worker:
        (letter,) = stage.wait_letters(1, what=worker.log)
        assert (letter.reason, letter.message.task_id, letter.message.task) == ("poison", sent, "die_whole")
        assert letter.error == "PoisonMessage: delivered 3 times without an end, which is more than 2"
        done = stage.send("ok", "after")
        eventually(lambda: stage.state(done) == "SUCCESS", what=worker.log)
    assert stage.ran(stage.queue) == MAX_DELIVERIES
    assert stage.state(sent) == "FAILURE"


def test_message_that_goes_back_each_time_it_kills_its_process_is_buried_too(stage: Stage) -> None:
    """``WorkerLost("requeue")`` would put it back for ever: the deliveries bound it."""
    sent = stage.send("rebound", stage.queue)
    with stage.worker(env={"CELERY_PATTERNS_MAX_DELIVERIES": str(MAX_DELIVERIES)}) as worker:
        (letter,) = stage.wait_letters(1, within=40, what=worker.log)
        assert (letter.reason, letter.message.task_id) == ("poison", sent)
    assert stage.ran(stage.queue) == MAX_DELIVERIES


def test_message_that_its_task_gives_back_is_no_poison(stage: Stage) -> None:
    sent = stage.send("give_back", stage.queue, 4)
    with stage.worker(env={"CELERY_PATTERNS_MAX_DELIVERIES": "1"}) as worker:
        eventually(lambda: stage.state(sent) == "SUCCESS", within=20, what=worker.log)
    assert stage.ran(stage.queue) == 5
    assert stage.store.client.keys(f"*:deliveries:{sent}:*") == []


@pytest.mark.parametrize("soft_seconds", ["0", "0.5"], ids=["cold", "soft"])
def test_message_of_a_worker_that_is_shut_down_coldly_is_no_poison(stage: Stage, soft_seconds: str) -> None:
    """SIGQUIT cancels what runs and what waits for a slot; nothing has died, however often that happens."""
    running = stage.send("wait", stage.queue, 60)
    behind = stage.send("wait", f"{stage.queue}-behind", 60)
    env = {"CELERY_PATTERNS_MAX_DELIVERIES": "1", "SHAKY_SOFT_SHUTDOWN": soft_seconds, "SHAKY_PREFETCH": "2"}
    keys = [stage.queue, f"{stage.queue}-behind"]
    for times in range(1, 4):
        with stage.worker(env=env) as worker:
            eventually(lambda n=times: sum(map(stage.ran, keys)) == n, within=20, what=worker.log)  # type: ignore[misc]
            eventually(lambda: worker.state().reserved == 1, what=worker.log)
            worker.process.send_signal(signal.SIGQUIT)
            worker.process.wait(30)
    assert list(stage.letters.scan(stage.queue)) == []
    assert {stage.state(running), stage.state(behind)} == {"PENDING"}


def test_long_task_of_a_killed_worker_is_no_poison(redis: RedisServer, rabbit: RabbitServer) -> None:
    """A pod that is lost costs its task one of its deliveries, and no more."""
    with Stage.on(redis, rabbit.url()) as stage:
        sent = stage.send("wait", stage.queue, 0.5)
        for lost in range(2):
            with stage.worker() as worker:
                eventually(lambda seen=lost: stage.ran(stage.queue) > seen, what=worker.log)  # type: ignore[misc]
                worker.kill()
        with stage.worker() as worker:
            eventually(lambda: stage.state(sent) == "SUCCESS", what=worker.log)


class Message:
    """As kombu's, as far as deliveries go."""

    def __init__(self, *, redelivered: bool, count: int | None = None) -> None:
        self.delivery_info = {"redelivered": redelivered}
        self.headers: dict[str, Any] = {} if count is None else {"x-delivery-count": count}


def test_first_delivery_asks_nobody() -> None:
    with Celery("test", set_as_current=False) as app, socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(0)
        port = mute.getsockname()[1]
        nowhere = Store(app, StoreSettings(url=f"redis://127.0.0.1:{port}/0"))
        assert Deliveries(nowhere).count(Message(redelivered=False), "id", 0) == 1
        with pytest.raises(BlockingIOError):  # nobody has called
            mute.accept()
        mute.close()
        assert Deliveries(nowhere).count(Message(redelivered=True), "id", 0) == 1, "it runs while nobody can count"
        nowhere.close()


def test_quorum_queues_count_themselves() -> None:
    assert Deliveries(None).count(Message(redelivered=True, count=4), "id", 0) == 5
    assert Deliveries(None).count(Message(redelivered=True), "id", 0) == 1


Step = st.tuples(st.sampled_from(["count", "forget", "clear"]), st.integers(0, 1), st.integers(0, 1))


@pytest.mark.models.with_args(COUNT)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(Step, max_size=40))
def test_counts_are_apart_for_each_message_and_try(clocked: ClockedStore, steps: list[tuple[str, int, int]]) -> None:
    clocked.client.flushdb()
    deliveries, again = Deliveries(clocked), Message(redelivered=True)
    model: dict[tuple[int, int], int] = {}
    for kind, number, retries in steps:
        task_id, key = f"id{number}", (number, retries)
        if kind == "count":
            model[key] = model.get(key, 0) + 1
            assert deliveries.count(again, task_id, retries) == 1 + model[key]
        elif kind == "forget":
            # What went back in good order was no delivery: the first, too, which is not counted until it comes again.
            assert deliveries.forget(again, task_id, retries)
            model[key] = max(-1, model.get(key, 0) - 1)
        else:
            deliveries.clear(task_id, retries)
            model.pop(key, None)
    assert clocked.without_ttl() == []


def test_forgotten_script_loads_itself(clocked: ClockedStore) -> None:
    key = clocked.key("deliveries", "x")
    assert clocked.run(COUNT, [key], [1, 1000]) == 1
    clocked.client.script_flush()
    assert clocked.run(COUNT, [key], [1, 1000]) == 2


def test_message_waits_for_no_store(redis: RedisServer, rabbit: RabbitServer) -> None:
    """The guard is no reason not to run: without its store, a message that came before runs uncounted."""
    with redis_server() as apart, Stage.on(redis, rabbit.url()) as stage:
        sent = stage.send("wait", stage.queue, 0.5)
        env = {"CELERY_PATTERNS_STORE_URL": apart.url()}
        with stage.worker(env=env) as worker:
            eventually(lambda: stage.ran(stage.queue) == 1, what=worker.log)
            worker.kill()
        apart.stop()
        with stage.worker(env=env) as worker:
            eventually(lambda: stage.state(sent) == "SUCCESS", within=15, what=worker.log)
            assert f"the deliveries of {sent} are not counted, it runs" in worker.log()
