"""Whole plans: what always holds, whatever is observed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.domain.pools.actions import (
    ApplyDeployment,
    CreateTokenSecret,
    DrainWorker,
    MarkForDeletion,
    ResumeWorker,
    ScaleDeployment,
)
from celery_operator.domain.pools.observation import ObservedPod, ObservedPool
from celery_operator.domain.pools.plan import SOON, Plan, PoolMemory, plan_pool
from celery_operator.domain.pools.scaling import Recommendation, ScalingMemory
from celery_patterns.protocol import WorkerState
from fakes.agents import busy_worker, idle_worker
from fakes.pools import HASH, idle_pods, observed, pod, pool_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPEC = pool_spec()
OLD = PoolMemory(ScalingMemory((Recommendation(NOW - timedelta(hours=1), 0),), NOW - timedelta(hours=1)))
"""Everything has been quiet for so long that nothing but the observation decides."""


def plan(
    seen: ObservedPool, memory: PoolMemory = OLD, manifest_hash: str | None = HASH, spec: WorkerPoolSpec = SPEC
) -> Plan:
    return plan_pool(spec, seen, memory, manifest_hash=manifest_hash, now=NOW)


# ------------------------------------------------------------------------------------------------------------- tables


def test_first_of_all_there_is_a_token() -> None:
    assert plan(observed(waiting=3, has_token=False)).actions == (CreateTokenSecret(),)


def test_a_missing_deployment_is_created_with_the_replicas_that_demand_asks_for() -> None:
    created = plan(replace(observed(waiting=3), deployment=None))
    assert created.actions == (ApplyDeployment(3, None, "a demand of 3 asks for 3"),)


def test_a_changed_deployment_is_applied_with_the_replicas_it_has() -> None:
    assert plan(observed(*idle_pods(2)), manifest_hash="new").actions == (
        ApplyDeployment(2, "7", "a demand of 0 asks for 0"),
    )


def test_applying_goes_along_with_scaling_out() -> None:
    [action] = plan(observed(*idle_pods(2), waiting=4), manifest_hash="new").actions
    assert isinstance(action, ApplyDeployment)
    assert (action.replicas, action.resource_version) == (4, "7")


def test_what_somebody_else_changed_is_applied_again() -> None:
    memory = replace(OLD, applied_generation=0)
    assert isinstance(plan(observed(pod("a", busy_worker())), memory).actions[0], ApplyDeployment)
    assert plan(observed(pod("a", busy_worker())), replace(OLD, applied_generation=1)).actions == ()


def test_a_spec_that_is_not_accepted_leaves_the_deployment_as_it_is_but_scales() -> None:
    grown = plan(observed(*idle_pods(1), waiting=2), manifest_hash=None)
    assert grown.actions == (ScaleDeployment(1, 2, "7", "a demand of 2 asks for 2"),)
    assert plan(replace(observed(waiting=3), deployment=None), manifest_hash=None).actions == ()


def test_drained_workers_resume_before_new_ones_start() -> None:
    drained = replace(idle_worker(), ready=False, draining=True, drained=True)
    assert plan(observed(pod("a", drained), waiting=3)).actions == (
        ResumeWorker("a", "a:9540"),
        ScaleDeployment(1, 3, "7", "a demand of 3 asks for 3"),
    )


def test_a_pool_without_agent_is_scaled_plainly() -> None:
    stock = pool_spec(worker={"agent": "None"}, replicas=1)
    seen = observed(pod("a"), pod("b"), pod("c"))
    assert plan(seen, spec=stock).actions == (ScaleDeployment(3, 1, "7", "spec.replicas is 1"),)
    following = pool_spec(worker={"agent": "None"})
    unknown = replace(seen, waiting=None)
    assert plan(unknown, spec=following).actions == ()
    assert plan(seen, spec=following).actions == (ScaleDeployment(3, 0, "7", "a demand of 0 asks for 0"),)


def test_a_deployment_that_is_being_deleted_is_waited_for() -> None:
    seen = observed(*idle_pods(1))
    assert seen.deployment is not None
    leaving = plan(replace(seen, deployment=replace(seen.deployment, deleting=True)))
    assert (leaving.actions, leaving.look_again) == ((), SOON)


@pytest.mark.parametrize(
    ("seen", "spec", "seconds"),
    [
        (observed(pod("a", busy_worker())), {"autoscaling": {"maxReplicas": 5, "pollPeriodSeconds": 9}}, 9.0),
        (observed(pod("a", busy_worker())), {"replicas": 1}, 1.0),
        (observed(pod("a", started=False)), {"replicas": 1}, 1.0),
        (observed(*idle_pods(1)), {"replicas": 2}, 0.3),
    ],
)
def test_a_pool_is_looked_at_more_often_while_something_is_under_way(
    seen: ObservedPool, spec: dict[str, Any], seconds: float
) -> None:
    assert plan(seen, spec=pool_spec(**spec)).look_again.total_seconds() == seconds


# --------------------------------------------------------------------------------------------------------- properties

COUNTS = st.integers(0, 3)


@st.composite
def states(draw: st.DrawFn) -> WorkerState | None:
    if draw(st.integers(0, 9)) == 0:
        return None
    draining = draw(st.booleans())
    active, reserved, scheduled, due = (draw(st.sampled_from([0, 0, 0, 1, 2])) for _ in range(4))
    held = active + reserved + scheduled + due
    return WorkerState(
        hostname="w",
        slots=2,
        active=active,
        reserved=reserved,
        scheduled=scheduled,
        scheduled_due=due,
        ready=not draining,
        draining=draining,
        drained=draining and held == 0,
        idle_seconds=0.0 if held else draw(st.floats(0, 1000)),
    )


@st.composite
def pods(draw: st.DrawFn) -> tuple[ObservedPod, ...]:
    result = []
    for number in range(draw(st.integers(0, 6))):
        state = draw(states())
        started = state is not None or draw(st.booleans())
        result.append(
            pod(
                f"p{number}",
                state,
                started=started,
                ready=started and draw(st.booleans()),
                pending=not started and draw(st.booleans()),
                terminating=draw(st.sampled_from([False, False, False, True])),
                marked=draw(st.booleans()),
                revision=draw(st.sampled_from(["one", "one", "one", "two"])),
            )
        )
    return tuple(result)


@st.composite
def pools(draw: st.DrawFn) -> ObservedPool:
    waiting = draw(st.none() | st.integers(0, 20))
    replicas = draw(st.none() | st.integers(0, 8))
    return observed(*draw(pods()), waiting=waiting, replicas=replicas)


SPECS = st.builds(
    lambda low, more, slots: pool_spec(
        autoscaling={"minReplicas": low, "maxReplicas": low + more}, worker={"concurrency": slots}
    ),
    st.integers(0, 3),
    st.integers(1, 6),
    st.integers(1, 2),
) | st.builds(lambda replicas: pool_spec(replicas=replicas), st.integers(0, 6))
MEMORIES = st.builds(
    lambda age, replicas: PoolMemory(ScalingMemory((Recommendation(NOW - timedelta(seconds=age), replicas),))),
    st.integers(0, 100),
    st.integers(0, 8),
)


@given(SPECS, pools(), MEMORIES)
def test_nobody_who_is_busy_or_silent_is_told_to_drain_or_marked(
    spec: WorkerPoolSpec, seen: ObservedPool, memory: PoolMemory
) -> None:
    by_name = {each.name: each for each in seen.pods}
    for action in plan_pool(spec, seen, memory, manifest_hash=HASH, now=NOW).actions:
        if isinstance(action, DrainWorker):
            assert by_name[action.pod].held == 0
        if isinstance(action, MarkForDeletion):
            assert by_name[action.pod].starting or by_name[action.pod].held == 0


@given(SPECS, pools(), MEMORIES)
def test_lowering_replicas_removes_only_pods_that_hold_nothing(
    spec: WorkerPoolSpec, seen: ObservedPool, memory: PoolMemory
) -> None:
    """Kubernetes' own order decides who goes: it is applied here to every plan that lowers replicas."""
    for action in plan_pool(spec, seen, memory, manifest_hash=HASH, now=NOW).actions:
        if isinstance(action, ScaleDeployment) and action.replicas < action.before:
            order = sorted(seen.active, key=lambda each: (*each.removal_rank, not each.marked))
            gone = order[: max(0, len(order) - action.replicas)]
            assert all(each.starting or (each.state is not None and each.state.drained) for each in gone)
            assert len({each.revision for each in seen.active}) <= 1


@given(SPECS, pools(), MEMORIES)
def test_replicas_stay_within_bounds_and_unknown_demand_never_lowers_them(
    spec: WorkerPoolSpec, seen: ObservedPool, memory: PoolMemory
) -> None:
    made = plan_pool(spec, seen, memory, manifest_hash=HASH, now=NOW)
    scaling = spec.autoscaling
    for action in made.actions:
        if isinstance(action, ScaleDeployment) and scaling is not None:
            assert action.replicas >= scaling.min_replicas
            assert action.replicas <= max(scaling.max_replicas, action.before)
            assert made.demand.exact or action.replicas > action.before
    if scaling is not None and not made.demand.exact:
        assert made.decision.reason is Reason.DEMAND_UNKNOWN
        assert not any(isinstance(action, DrainWorker | MarkForDeletion) for action in made.actions)


@given(pools(), MEMORIES)
def test_the_last_worker_stays_while_anything_is_left(seen: ObservedPool, memory: PoolMemory) -> None:
    made = plan(seen, memory)
    left = made.demand.known + made.demand.later
    assert seen.deployment is not None
    if made.decision.desired == 0 and seen.deployment.replicas > 0:
        assert left == 0
        assert made.memory.scaling.idle_since is not None
        assert NOW - made.memory.scaling.idle_since >= timedelta(seconds=300)


def after(seen: ObservedPool, made: Plan) -> ObservedPool:
    """Carry out a plan in the observation, as a quiet cluster would, with workers that finish nothing."""
    assert seen.deployment is not None
    by_name = {each.name: each for each in seen.active}
    replicas = seen.deployment.replicas
    for action in made.actions:
        match action:
            case DrainWorker() | ResumeWorker():
                each = by_name[action.pod]
                assert each.state is not None
                draining = isinstance(action, DrainWorker)
                drained = draining and each.held == 0
                state = replace(each.state, draining=draining, drained=drained, ready=not draining)
                by_name[action.pod] = replace(each, state=state, ready=not draining)
            case MarkForDeletion():
                by_name[action.pod] = replace(by_name[action.pod], marked=True)
            case ScaleDeployment() | ApplyDeployment():
                replicas = action.replicas
            case CreateTokenSecret():
                pass
            case _:
                by_name[action.pod] = replace(by_name[action.pod], marked=False)
    order = sorted(by_name.values(), key=lambda each: (*each.removal_rank, not each.marked))
    kept = order[max(0, len(order) - replicas) :]
    kept += [pod(f"new{number}", idle_worker()) for number in range(replicas - len(kept))]
    return observed(*kept, waiting=None if seen.waiting is None else sum(seen.waiting.values()))


@given(SPECS, pools())
def test_carrying_out_plans_settles(spec: WorkerPoolSpec, seen: ObservedPool) -> None:
    memory, made = OLD, None
    seen = replace(seen, pods=tuple(replace(each, revision="one") for each in seen.active))
    for _ in range(12):
        made = plan_pool(spec, seen, memory, manifest_hash=HASH, now=NOW)
        if not made.actions:
            break
        memory, seen = made.memory, after(seen, made)
    assert made is not None
    assert made.actions == ()
