"""Scaling in drains idle workers first, and lowers replicas only when Kubernetes will choose exactly those."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_operator.api.conditions import Reason
from celery_operator.domain.pools.actions import (
    Action,
    DrainWorker,
    MarkForDeletion,
    ResumeWorker,
    ScaleDeployment,
    UnmarkForDeletion,
)
from celery_operator.domain.pools.draining import ScaleIn, plan_scale_in
from celery_operator.domain.pools.observation import ObservedDeployment, ObservedPod
from celery_operator.domain.pools.scaling import Decision
from fakes.agents import busy_worker, idle_worker
from fakes.pools import idle_pods, observed, pod

DRAINED = replace(idle_worker(), ready=False, draining=True, drained=True)
FINISHING = replace(busy_worker(), ready=False, draining=True)


def plan(pods: tuple[ObservedPod, ...], desired: int, **deployment: Any) -> ScaleIn:
    seen = observed(*pods).deployment
    assert seen is not None
    decided = Decision(desired, desired, True, Reason.FOLLOWING_DEMAND, "why")  # noqa: FBT003
    return plan_scale_in(replace(seen, **deployment), pods, decided)


def scale(before: int, replicas: int) -> Action:
    return ScaleDeployment(before, replicas, "7", "why")


def test_the_longest_idle_are_told_to_drain_and_replicas_wait() -> None:
    pods = (pod("busy", busy_worker()), *idle_pods(3))
    assert plan(pods, 2).actions == (DrainWorker("a", "a:9540", "why"), DrainWorker("b", "b:9540", "why"))


def test_a_drained_worker_is_marked_and_replicas_wait_for_the_mark() -> None:
    pods = (pod("busy", busy_worker()), pod("a", DRAINED))
    assert plan(pods, 1).actions == (MarkForDeletion("a"),)


def test_replicas_are_lowered_by_exactly_the_marked() -> None:
    pods = (pod("busy", busy_worker()), pod("a", DRAINED, marked=True), pod("b", FINISHING))
    assert plan(pods, 1) == ScaleIn((scale(3, 2),), under_way=True)


def test_a_drained_worker_that_still_counts_as_ready_waits_while_another_is_not_ready() -> None:
    """Kubernetes would remove the one that is not ready, whatever the mark says."""
    sick = pod("sick", busy_worker(), ready=False)
    assert plan((sick, pod("a", DRAINED, marked=True, ready=True)), 1).actions == ()
    assert plan((sick, pod("a", DRAINED, marked=True, ready=False)), 1).actions == (scale(2, 1),)


def test_a_mark_on_somebody_who_is_needed_goes_before_replicas_are_lowered() -> None:
    needed = pod("needed", busy_worker(), ready=False, marked=True)
    pods = (needed, pod("a", DRAINED, marked=True))
    assert plan(pods, 1).actions == (UnmarkForDeletion("needed"),)
    assert plan((replace(needed, marked=False), pods[1]), 1).actions == (scale(2, 1),)


def test_a_victim_that_took_a_task_loses_its_mark() -> None:
    pods = (pod("a", FINISHING, marked=True), pod("b", DRAINED, marked=True), pod("c", busy_worker()))
    assert plan(pods, 1).actions == (UnmarkForDeletion("a"),)


def test_pods_that_have_not_begun_go_first() -> None:
    pending = pod("new", started=False, pending=True, assigned=False)
    assert plan((*idle_pods(2), pending), 2).actions == (MarkForDeletion("new"),)
    assert plan((*idle_pods(2), replace(pending, marked=True)), 2).actions == (scale(3, 2),)


def test_a_pending_pod_that_stays_is_never_taken_for_a_drained_worker() -> None:
    """It would be removed before the marked one, so the pending one is the victim, and the drained one is needed."""
    pods = (pod("a", DRAINED, marked=True), pod("new", started=False, pending=True), pod("busy", busy_worker()))
    assert plan(pods, 2).actions == (UnmarkForDeletion("a"), ResumeWorker("a", "a:9540"), MarkForDeletion("new"))


def test_busy_workers_are_never_told_to_drain() -> None:
    pods = (pod("x", busy_worker()), pod("y", replace(idle_worker(), scheduled=1)), pod("z"), *idle_pods(1))
    scale_in = plan(pods, 0)
    assert scale_in.actions == (DrainWorker("a", "a:9540", "why"),)
    assert (scale_in.limit, scale_in.limit_message) == (
        Reason.BUSY_WORKERS,
        "fewer workers are wanted, but no further one is idle",
    )


def test_a_worker_that_took_a_task_just_before_it_was_told_goes_on_draining_if_no_other_is_idle() -> None:
    assert plan((pod("a", FINISHING), pod("b", busy_worker())), 1) == ScaleIn(under_way=True)


def test_another_idle_worker_goes_in_its_place() -> None:
    assert plan((pod("x", FINISHING), *idle_pods(1)), 1).actions == (
        ResumeWorker("x", "x:9540"),
        DrainWorker("a", "a:9540", "why"),
    )


def test_when_demand_comes_back_drained_workers_are_unmarked_and_resumed() -> None:
    pods = (pod("a", DRAINED, marked=True), pod("b", DRAINED))
    assert plan(pods, 2) == ScaleIn(
        (UnmarkForDeletion("a"), ResumeWorker("a", "a:9540"), ResumeWorker("b", "b:9540")), under_way=False
    )


def test_pods_that_are_about_to_be_removed_are_not_resumed() -> None:
    pods = (pod("a", DRAINED, marked=True), pod("b", busy_worker()))
    assert plan(pods, 1, replicas=1) == ScaleIn(under_way=True)


def test_pods_that_were_never_created_need_no_drain() -> None:
    assert plan(idle_pods(2), 2, replicas=5).actions == (scale(5, 2),)


def test_while_two_revisions_run_nobody_drains_and_who_drained_resumes() -> None:
    pods = (pod("a", DRAINED), *idle_pods(0), pod("b", idle_worker(), revision="two"))
    assert plan(pods, 1) == ScaleIn(
        (ResumeWorker("a", "a:9540"),),
        Reason.ROLLOUT_IN_PROGRESS,
        "pods of two revisions run: scaling in waits until the rollout is done",
        under_way=True,
    )
    assert plan(idle_pods(2), 1, updated=1).limit is Reason.ROLLOUT_IN_PROGRESS


def test_nothing_is_done_until_kubernetes_has_seen_the_last_change() -> None:
    pods = (pod("a", DRAINED, marked=True), *idle_pods(0))
    assert plan(pods, 0, generation=2) == ScaleIn(under_way=True)


def test_while_demand_is_unknown_nothing_begins_and_nothing_is_taken_back() -> None:
    deployment = observed(*idle_pods(3)).deployment
    assert isinstance(deployment, ObservedDeployment)
    held = Decision(3, 0, False, Reason.DEMAND_UNKNOWN, "why")  # noqa: FBT003
    pods = (pod("a", DRAINED, marked=True), pod("b", FINISHING), pod("c", idle_worker()))
    assert plan_scale_in(deployment, pods, held) == ScaleIn(under_way=True)
    needed = replace(held, working=3)
    assert plan_scale_in(deployment, pods, needed).actions == (
        UnmarkForDeletion("a"),
        ResumeWorker("a", "a:9540"),
        ResumeWorker("b", "b:9540"),
    )
