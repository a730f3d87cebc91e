"""Replicas follow demand: up at once, down slowly, to zero when nothing is left, and never down on a guess."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.domain.pools.demand import Demand, measure
from celery_operator.domain.pools.scaling import Decision, Recommendation, ScalingMemory, decide
from fakes.agents import busy_worker, idle_worker
from fakes.pools import observed, pod, pool_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def settled(replicas: int, **memory: Any) -> ScalingMemory:
    """A memory in which nothing but this was recommended, and that long ago."""
    return ScalingMemory(recommendations=(Recommendation(LONG_AGO, replicas),), **memory)


def decision(demand: Demand, running: int, memory: ScalingMemory | None = None, **spec: Any) -> Decision:
    return decide(pool_spec(**spec), demand, running, memory or settled(running), now=NOW)[0]


def test_demand_is_waiting_and_reserved_and_active_and_due() -> None:
    state = replace(busy_worker(2, slots=4), reserved=3, scheduled=50, scheduled_due=4)
    assert measure(observed(pod("a", state), waiting=10), agent=True) == Demand(known=19, later=50)


def test_what_does_not_answer_is_named_and_pods_that_have_not_begun_hold_nothing() -> None:
    starting, ending = pod("b", started=False), pod("c", busy_worker(9), terminating=True)
    assert measure(observed(pod("a"), starting, ending, waiting=None), agent=True) == Demand(0, 0, ("the broker", "a"))
    assert measure(observed(starting, ending), agent=True) == Demand(0)


def test_without_the_agent_only_the_queue_counts() -> None:
    assert measure(observed(pod("a"), waiting=3), agent=False) == Demand(3)


@pytest.mark.parametrize(
    ("known", "later", "concurrency", "target", "expected"),
    [
        (0, 0, 1, 1, 0),
        (1, 0, 4, 1, 1),
        (4, 0, 4, 1, 1),
        (5, 0, 4, 1, 2),
        (9, 0, 2, 2, 3),
        (0, 7, 1, 1, 1),
        (3, 7, 1, 1, 3),
    ],
)
def test_replicas_are_demand_by_slots_and_target_rounded_up(
    known: int, later: int, concurrency: int, target: int, expected: int
) -> None:
    scaling = {"maxReplicas": 5, "metrics": [{"type": "TasksPerSlot", "target": target}]}
    worker = {"concurrency": concurrency}
    assert decision(Demand(known, later), 0, autoscaling=scaling, worker=worker).desired == expected


def test_scaling_out_is_immediate_and_says_what_bounds_it() -> None:
    assert decision(Demand(9), 1) == Decision(
        desired=5,
        working=5,
        may_shrink=True,
        reason=Reason.FOLLOWING_DEMAND,
        message="a demand of 9 asks for 9",
        recommended=9,
        limit=Reason.TOO_MANY_REPLICAS,
        limit_message="demand asks for more than maxReplicas (5)",
    )


def test_the_minimum_holds_more_than_demand_asks_for() -> None:
    low = decision(Demand(1), 3, autoscaling={"minReplicas": 2, "maxReplicas": 5})
    assert (low.desired, low.recommended, low.limit) == (2, 1, Reason.TOO_FEW_REPLICAS)


def test_scaling_in_waits_for_the_window_and_takes_its_largest_recommendation() -> None:
    spec, memory = pool_spec(autoscaling={"maxReplicas": 9}), settled(9)
    wanted = []
    for second, known in ((0, 5), (20, 3), (40, 4), (59, 1), (60, 1), (99, 1), (100, 1), (119, 1)):
        decided, memory = decide(spec, Demand(known), 9, memory, now=at(second))
        wanted.append(decided.desired)
    assert wanted == [5, 5, 5, 5, 4, 4, 1, 1]


def test_the_window_never_scales_out() -> None:
    memory = ScalingMemory(recommendations=(Recommendation(at(-10), 5),))
    assert decision(Demand(1), 3, memory).desired == 3


def test_an_operator_that_has_just_started_does_not_shrink_at_once() -> None:
    spec = pool_spec(autoscaling={"minReplicas": 1, "maxReplicas": 9})
    first, memory = decide(spec, Demand(0), 4, ScalingMemory(), now=NOW)
    later, _ = decide(spec, Demand(0), 4, memory, now=at(60))
    assert (first.desired, later.desired) == (4, 1)


def test_to_zero_only_when_nothing_was_left_for_the_idle_timeout() -> None:
    spec, memory = pool_spec(), settled(1)
    wanted = []
    for second, demand in (
        (0, Demand(0)),
        (299, Demand(0)),
        (300, Demand(0)),
        (301, Demand(0, 1)),
        (302, Demand(0)),
        (601, Demand(0)),
        (602, Demand(0)),
    ):
        decided, memory = decide(spec, demand, 1, memory, now=at(second))
        wanted.append(decided.desired)
    assert wanted == [1, 1, 0, 1, 1, 1, 0]


def test_a_pool_at_zero_stays_there_until_something_waits() -> None:
    assert decision(Demand(0), 0).desired == 0
    assert decision(Demand(1), 0).desired == 1


def test_unknown_demand_holds_what_runs_even_above_the_maximum() -> None:
    assert decision(Demand(0, 0, ("a", "b", "c", "d", "e")), 7) == Decision(
        desired=7,
        working=0,
        may_shrink=False,
        reason=Reason.DEMAND_UNKNOWN,
        message="no answer from a, b, c and 2 more: replicas are not reduced",
        recommended=0,
    )


def test_the_known_part_of_the_demand_may_still_scale_out() -> None:
    part = decision(Demand(4, 0, ("a",)), 2)
    assert (part.desired, part.working, part.may_shrink) == (4, 4, False)


def test_after_silence_the_window_begins_anew() -> None:
    spec = pool_spec(autoscaling={"minReplicas": 1, "maxReplicas": 9})
    _, memory = decide(spec, Demand(0, 0, ("the broker",)), 6, settled(6), now=NOW)
    first, memory = decide(spec, Demand(0), 6, memory, now=at(1))
    later, _ = decide(spec, Demand(0), 6, memory, now=at(60))
    assert (first.desired, later.desired) == (6, 1)


@pytest.mark.parametrize(("spec", "replicas"), [({"replicas": 3}, 3), ({"replicas": 0}, 0), ({"autoscaling": None}, 1)])
def test_fixed_replicas_do_not_follow_demand(spec: dict[str, Any], replicas: int) -> None:
    fixed = decision(Demand(50, 0, ("the broker",)), 9, **spec)
    assert fixed == Decision(
        desired=replicas,
        working=replicas,
        may_shrink=True,
        reason=Reason.FIXED_REPLICAS,
        message=f"spec.replicas is {replicas}",
    )


def test_the_memory_stays_small_however_often_it_is_asked() -> None:
    spec, memory = pool_spec(), ScalingMemory()
    for second in range(1000):
        _, memory = decide(spec, Demand(second % 7), 3, memory, now=at(second))
    assert len(memory.recommendations) <= 7


def test_idle_means_that_the_worker_holds_nothing_for_later_either() -> None:
    one = idle_worker()
    states = (
        replace(one, active=1),
        replace(one, reserved=1),
        replace(one, scheduled=1),
        replace(one, scheduled_due=1),
    )
    assert [pod("a", state).held for state in (*states, one, None)] == [1, 1, 1, 1, 0, None]
