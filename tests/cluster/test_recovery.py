"""What killed workers leave behind: it starts again soon, never twice at a time, and does not kill for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from servers import eventually
from support.cluster import Cluster
from support.forward import Forward
from support.manifests import RABBITMQ_PORT
from support.playground import BROKER, Playground, worker_selector
from support.recovery import Runs, create_app, create_pool, create_tasks, patterns_command, result_of, runs_of, send
from support.release import Release
from support.shared_ground import ground_with_redis
from support.signals import Signals

LEASE_SECONDS = 10
PROMISED_SECONDS = LEASE_SECONDS + 5
"""From the kill to the new start."""
SLACK_SECONDS = 15
"""For a node that also runs the tests, where the next worker may have to start first, and where a pod that is removed
by force runs on for two or three seconds."""
LONG_SECONDS = 3.5 * LEASE_SECONDS
MAX_DELIVERIES = 2
END_SECONDS = 90.0
"""Twice the lease, two starts of a container that Kubernetes holds up for longer each time, and the task itself."""


@pytest.fixture(scope="module")
def recovering(cluster: Cluster, release: Release) -> Iterator[Playground]:
    """A namespace with a Redis, and the application ``app`` whose workers recover as these tests want it."""
    with ground_with_redis(cluster, release, "recovery") as fresh:
        create_tasks(fresh)
        create_app(fresh, "app", {"leaseSeconds": LEASE_SECONDS, "maxDeliveries": MAX_DELIVERIES})
        yield fresh


@pytest.fixture
def signals(cluster: Cluster) -> Iterator[Signals]:
    sender = Signals(cluster)
    try:
        sender.start()
        yield sender
    finally:
        sender.close()


@pytest.fixture
def start_pool(recovering: Playground) -> Iterator[Callable[..., tuple[str, ...]]]:
    """Start pools and return the names of their pods; they are removed after the test."""
    started: list[str] = []

    def start(name: str, *, replicas: int, concurrency: int = 1, app: str = "app") -> tuple[str, ...]:
        create_pool(recovering, name, app=app, replicas=replicas, concurrency=concurrency)
        started.append(name)
        return recovering.wait_for_pods(replicas, worker_selector(name))

    yield start
    for name in started:
        recovering.api.delete("CeleryWorkerPool", recovering.name, name)


def runs(ground: Playground, *ids: str) -> tuple[Runs, ...]:
    found = runs_of(ground.ledger.entries(), ids)
    return tuple(found[task_id] for task_id in ids)


def publish(ground: Playground, queue: str, task: str, *args: object) -> str:
    return send(queue, task, *args, broker_url=ground.redis().url(BROKER))


def worker_of(ground: Playground, task_id: str) -> str:
    """Return the pod in which a task started last."""
    return [entry.worker for entry in ground.ledger.started() if entry.id == task_id][-1].partition("@")[2]


def remove_by_force(ground: Playground, pod: str) -> None:
    ground.cluster.kubectl("delete", "pod", pod, "-n", ground.name, "--force", "--grace-period=0", "--wait=false")


def started(ground: Playground, *ids: str) -> None:
    eventually(lambda: all(each.starts for each in runs(ground, *ids)), within=30, every=0.2, what="all to start")


def test_tasks_of_killed_workers_start_again_soon_and_a_long_one_runs_once(
    recovering: Playground,
    signals: Signals,
    start_pool: Callable[..., tuple[str, ...]],
    measured: Callable[[str, object], None],
) -> None:
    """One worker's processes are killed, another's pod is removed by force; a third runs on beyond several leases."""
    ground = recovering
    pods = start_pool("killed", replicas=3, concurrency=2)
    long = publish(ground, "killed", "examples.ledger.record", "long", LONG_SECONDS)
    started(ground, long)
    short = [publish(ground, "killed", "examples.ledger.record", f"short-{index}", 10.0) for index in range(5)]
    started(ground, *short)
    spared = worker_of(ground, long)
    victims = {task_id: pod for task_id in short if (pod := worker_of(ground, task_id)) != spared}
    lost = list(victims)
    assert len(lost) == 4, "two slots of each other worker"
    first, second = (pod for pod in pods if pod != spared)
    killed_at = time.time()  # noqa: TID251 - compared with the ledger's times, which are this machine's
    assert signals.send("SIGKILL", namespace=ground.name, pod=first, container="worker") >= 3
    remove_by_force(ground, second)
    eventually(
        lambda: all(each.finishes for each in runs(ground, long, *short)),
        within=END_SECONDS,
        every=0.3,
        what="all ends",
    )
    again = runs(ground, *lost)
    assert [(len(each.starts), len(each.finishes)) for each in again] == [(2, 1)] * len(lost)
    for each in again:
        assert each.starts[0] < killed_at < each.starts[1] < each.finishes[0], "it ran twice at a time"
    waited = dict(zip(lost, (round(each.starts[1] - killed_at, 1) for each in again), strict=True))
    killed = [seconds for task_id, seconds in waited.items() if victims[task_id] == first]
    measured("seconds from the kill of the processes to the new start", killed)
    removed = [seconds for task_id, seconds in waited.items() if victims[task_id] == second]
    measured("seconds from the removal of the pod to the new start", removed)
    assert max(waited.values()) <= PROMISED_SECONDS + SLACK_SECONDS
    undisturbed = runs(ground, long, *(task_id for task_id in short if task_id not in lost))
    assert [(len(each.starts), len(each.finishes)) for each in undisturbed] == [(1, 1), (1, 1)]


def test_task_that_kills_its_container_becomes_a_letter_that_can_be_replayed(
    recovering: Playground, start_pool: Callable[..., tuple[str, ...]]
) -> None:
    ground = recovering
    start_pool("poison", replicas=2)
    bad = publish(ground, "poison", "recovery.kill_container", "boom")
    good: list[str] = []
    for delivery in range(MAX_DELIVERIES):
        eventually(
            lambda seen=delivery: len(runs(ground, bad)[0].starts) > seen,  # type: ignore[misc]
            within=END_SECONDS,
            every=0.2,
            what=f"delivery {delivery + 1}",
        )
        good += [publish(ground, "poison", "examples.ledger.record", f"good-{delivery}-{n}", 0.2) for n in range(3)]
    eventually(lambda: result_of(ground, bad)[0] == "FAILURE", within=END_SECONDS, every=0.3, what="its burial")
    eventually(lambda: all(each.finishes for each in runs(ground, *good)), within=END_SECONDS, what="the others' ends")
    assert len(runs(ground, bad)[0].starts) == MAX_DELIVERIES
    assert result_of(ground, bad)[1]["exc_type"] == "PoisonMessage"

    pod = ground.wait_for_pods(2, worker_selector("poison"))[0]
    [letter] = patterns_command(ground, pod, "dlq", "list", "--queue", "poison")["letters"]
    assert (letter["reason"], letter["task"], letter["task_id"]) == ("poison", "recovery.kill_container", bad)
    shown = patterns_command(ground, pod, "dlq", "show", letter["id"])
    assert (shown["arguments"], shown["headers"]["id"]) == ([["boom"], {}], bad), "the original message"
    [sent] = patterns_command(ground, pod, "dlq", "replay", letter["id"], "--set", "kwargs.kill=false")
    assert (sent["replayed"], sent["queue"], sent["task_id"]) == (True, "poison", bad)
    eventually(
        lambda: result_of(ground, bad) == ("SUCCESS", "boom"), within=30, every=0.2, what="the mended task's end"
    )
    assert patterns_command(ground, pod, "dlq", "list", "--queue", "poison")["letters"] == []


def test_task_that_kills_its_process_is_tried_as_often_as_it_may_beside_others(
    recovering: Playground, start_pool: Callable[..., tuple[str, ...]]
) -> None:
    ground = recovering
    [pod] = start_pool("crash", replicas=1, concurrency=2)
    beside = publish(ground, "crash", "examples.ledger.record", "beside", 5.0)
    started(ground, beside)
    bad = publish(ground, "crash", "recovery.kill_process", "bang")
    eventually(lambda: result_of(ground, bad)[0] == "FAILURE", within=END_SECONDS, every=0.3, what="its last try")
    assert len(runs(ground, bad)[0].starts) == 3, "max_retries + 1"
    [letter] = patterns_command(ground, pod, "dlq", "list", "--queue", "crash")["letters"]
    assert (letter["reason"], letter["task_id"]) == ("worker_lost", bad)
    eventually(lambda: runs(ground, beside)[0].finishes, within=30, every=0.2, what="the end of the task beside it")
    assert len(runs(ground, beside)[0].starts) == 1
    assert [status["restartCount"] for status in ground.get("Pod", pod)["status"]["containerStatuses"]] == [0]


def test_on_rabbitmq_deliveries_are_counted_and_limited_too(
    recovering: Playground, start_pool: Callable[..., tuple[str, ...]]
) -> None:
    ground = recovering
    broker_url = ground.start_rabbitmq()
    create_app(ground, "rabbit", {"maxDeliveries": MAX_DELIVERIES}, broker_url=broker_url)
    start_pool("hare", replicas=1, app="rabbit")
    forward = Forward(ground.cluster, ground.name, "pod/rabbitmq", RABBITMQ_PORT)
    try:
        bad = send("hare", "recovery.kill_container", "boom", broker_url=f"amqp://127.0.0.1:{forward.port}//")
    finally:
        forward.close()
    eventually(lambda: result_of(ground, bad)[0] == "FAILURE", within=END_SECONDS, every=0.3, what="its burial")
    assert len(runs(ground, bad)[0].starts) == MAX_DELIVERIES
    [pod] = ground.wait_for_pods(1, worker_selector("hare"))
    [letter] = patterns_command(ground, pod, "dlq", "list", "--queue", "hare")["letters"]
    assert (letter["reason"], letter["task_id"]) == ("poison", bad)


def test_what_patterns_hold_is_free_within_the_lease_and_a_key_is_committed_once(
    recovering: Playground,
    start_pool: Callable[..., tuple[str, ...]],
    measured: Callable[[str, object], None],
) -> None:
    """A singleton and one of three calls with one idempotency key run when their pods are removed by force."""
    ground = recovering
    start_pool("locks", replicas=2, concurrency=2)
    alone = publish(ground, "locks", "recovery.alone", "lock", 5.0)
    first = publish(ground, "locks", "recovery.once", "key", 5.0)
    started(ground, alone, first)
    killed_at = time.time()  # noqa: TID251 - compared with the ledger's times, which are this machine's
    for pod in {worker_of(ground, alone), worker_of(ground, first)}:
        remove_by_force(ground, pod)
    once = [first, *(publish(ground, "locks", "recovery.once", "key", 5.0) for _ in range(2))]
    next_one = publish(ground, "locks", "recovery.alone", "lock", 0.5)
    ids = (alone, next_one, *once)
    eventually(
        lambda: all(result_of(ground, each)[0] == "SUCCESS" for each in ids),
        within=END_SECONDS,
        every=0.3,
        what=lambda: f"all ends: {[result_of(ground, each) for each in ids]}",
    )
    found = runs_of(ground.ledger.entries(), ids)
    committed = [task_id for task_id in once for _ in found[task_id].finishes]
    assert len(committed) == 1, "one commit for the key"
    assert [result_of(ground, each)[1] for each in once] == committed * 3, "all have its result"
    held = sorted((each.starts[-1], each.finishes[0]) for each in (found[alone], found[next_one]))
    assert held[0][1] <= held[1][0], "two calls held the lock at a time"
    waited = {
        "singleton": round(held[0][0] - killed_at, 1),
        "idempotent": round(found[committed[0]].starts[-1] - killed_at, 1),
    }
    measured("seconds to the new start", waited)
    assert max(waited.values()) <= PROMISED_SECONDS + SLACK_SECONDS
