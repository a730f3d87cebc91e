"""An operator that dies or freezes in mid-run: its successor goes on, nothing is lost, and no attempt runs twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import eventually
from support.cluster import Cluster
from support.ledger import assert_each_once
from support.manifests import fan_out_and_total
from support.playground import Playground, condition
from support.release import CONTAINER, LEASE_SECONDS, TAKEOVER_SECONDS, Release
from support.signals import Signals

pytestmark = pytest.mark.wounds_operator

SLOTS = 4
KILLS = 5
ITEMS = 400
SECONDS = 0.5
"""At most eight items a second, fifty seconds in all: five leaders have something to do even where deleting a pod and
seeing that it is gone takes several seconds each time. Each publishes ten more before it is killed in its turn."""
FEWER_ITEMS = 240
"""Enough for two leaders: while the first stands still nothing new is published."""
PROGRESS = 10
FAILPOINT_EXIT = 70
GIVEN_BACK_SECONDS = 12.0
"""Less than the lease lasts after the renewals that a leader makes before it goes."""
SHORT_LEASE = "6"
"""Seconds, where leaders die without giving their lease back, again and again: the time until the next one leads."""
FAILPOINTS = ("after-publish", "before-checkpoint", "after-checkpoint", "before-final-status")

STANDS, GOES_ON = "standing at a failpoint", "going on from a failpoint"
"""What the operator's log says (adapters/failpoints.py)."""


def _dying_at(point: str) -> pytest.MarkDecorator:
    return pytest.mark.operator_env(CELERY_OPERATOR_FAILPOINT=point, CELERY_OPERATOR_LEASE_DURATION_SECONDS=SHORT_LEASE)


def _standing_at(point: str) -> pytest.MarkDecorator:
    return pytest.mark.operator_env(CELERY_OPERATOR_FAILPOINT=point, CELERY_OPERATOR_FAILPOINT_ACTION="hold")


@pytest.fixture
def running(ground: Playground) -> Playground:
    """A namespace in which a fan-out runs that only goes on while an operator publishes: a few items at a time."""
    ground.create_pool(replicas=1, worker={"concurrency": SLOTS})
    ground.wait_condition("CeleryWorkerPool", "pool", "Ready", "True", within=60)
    return ground


@pytest.fixture
def signals(cluster: Cluster) -> Iterator[Signals]:
    sender = Signals(cluster)
    sender.start()
    yield sender
    sender.close()


def test_a_leader_that_was_stopped_past_its_lease_ends_when_it_is_continued(
    running: Playground, operator: Release, signals: Signals
) -> None:
    running.create_workflow("fan-out", **fan_out_and_total(items=FEWER_ITEMS, seconds=0.2, parallelism=SLOTS))
    _await_progress(running, PROGRESS)
    holder, leader = operator.holder(), operator.leader()
    assert leader is not None
    stopped = signals.send("SIGSTOP", namespace=operator.namespace, pod=leader, container=CONTAINER)
    assert stopped >= 1
    operator.wait_new_leader(holder)
    _await_progress(running, PROGRESS)
    continued = signals.send("SIGCONT", namespace=operator.namespace, pod=leader, container=CONTAINER)
    assert continued == stopped
    _await_end_of_stopped(operator, holder)
    _assert_complete(running, FEWER_ITEMS)


@pytest.mark.operator_env(CELERY_OPERATOR_LEASE_DURATION_SECONDS=SHORT_LEASE)
def test_the_leader_is_killed_five_times_in_mid_run(running: Playground, operator: Release) -> None:
    running.create_workflow("fan-out", **fan_out_and_total(items=ITEMS, seconds=SECONDS, parallelism=SLOTS))
    for _ in range(KILLS):
        holder, leader = operator.holder(), operator.leader()
        assert leader is not None
        _await_progress(running, PROGRESS)
        operator.cluster.kubectl("delete", "pod", leader, "-n", operator.namespace, "--force", "--grace-period=0")
        operator.wait_new_leader(holder)
    assert len(running.ledger.finished()) < ITEMS, "the run was over before the last kill: make it longer"
    _assert_complete(running, ITEMS)


@pytest.mark.parametrize("point", [pytest.param(point, marks=_dying_at(point)) for point in FAILPOINTS], ids=FAILPOINTS)
def test_a_leader_that_dies_at_a_failpoint_loses_and_repeats_nothing(
    running: Playground, operator: Release, point: str
) -> None:
    items = 40
    running.create_workflow("fan-out", **fan_out_and_total(items=items, seconds=0.4, parallelism=SLOTS))
    _assert_complete(running, items)
    assert FAILPOINT_EXIT in operator.exits(), f"nobody died at {point}:\n{operator.describe()}"


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=_standing_at(point)) for point in FAILPOINTS], ids=FAILPOINTS
)
def test_a_leader_that_was_stopped_at_a_failpoint_past_its_lease_loses_and_repeats_nothing(
    running: Playground, operator: Release, signals: Signals, point: str
) -> None:
    """Continued, it goes on with what it had half done, while its successor has done the same from the checkpoint."""
    items = 40
    holder, leader = operator.holder(), operator.leader()
    assert leader is not None
    running.create_workflow("fan-out", **fan_out_and_total(items=items, seconds=0.4, parallelism=SLOTS))
    eventually(lambda: STANDS in operator.log(leader), within=60, every=0.1, what=f"a leader that stands at {point}")
    stopped = signals.send("SIGSTOP", namespace=operator.namespace, pod=leader, container=CONTAINER)
    assert stopped >= 1
    assert GOES_ON not in operator.log(leader), "it was stopped too late"
    operator.wait_new_leader(holder)
    continued = signals.send("SIGCONT", namespace=operator.namespace, pod=leader, container=CONTAINER)
    assert continued == stopped
    _await_end_of_stopped(operator, holder)
    _assert_complete(running, items)


def test_a_standby_takes_over_from_a_leader_that_leaves(operator: Release) -> None:
    """A leader that is told to go gives its lease back: nobody waits for it to expire."""
    holder, leader = operator.holder(), operator.leader()
    assert leader is not None
    operator.cluster.kubectl("delete", "pod", leader, "-n", operator.namespace, "--wait=false")
    assert operator.wait_new_leader(holder, within=GIVEN_BACK_SECONDS) != leader


def _await_end_of_stopped(operator: Release, holder: str) -> None:
    """Wait until the former holder has ended as one that lost its lease, and not taken it back."""
    eventually(
        lambda: operator.exits() == [75] and operator.holder() != holder,
        within=LEASE_SECONDS,
        every=0.2,
        what=lambda: f"the end of the stopped leader:\n{operator.describe()}",
    )


def _await_progress(ground: Playground, count: int) -> None:
    """Wait until so many further items have been started."""
    before = len(ground.ledger.started())
    eventually(
        lambda: len(ground.ledger.started()) >= before + count,
        within=TAKEOVER_SECONDS,
        every=0.2,
        what=f"{count} more items than {before}",
    )


def _assert_complete(ground: Playground, items: int) -> None:
    """Assert that the run succeeds with the right sum, and that every item was started and finished once."""
    ended = ground.wait_ended("fan-out", within=120)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("True", "Completed"), found
    assert ground.outputs("fan-out") == {"total": sum(range(items))}
    assert_each_once(ground.ledger.entries(), ground.task_ids("fan-out", "numbers", items))
    assert ended["status"]["tasks"]["retried"] == 0
