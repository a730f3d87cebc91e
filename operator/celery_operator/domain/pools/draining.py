"""Scaling in without interrupting a task: which workers go, and when their pods may.

A worker that holds nothing is told to drain. When it says that it is drained, its pod is marked; when the mark is seen,
replicas are lowered by exactly the pods that Kubernetes will then choose. Kubernetes looks at more than the mark:
pods without a node go first, then pending ones, then those that are not ready, and only among equals the marked ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from celery_operator.api.conditions import Reason
from celery_operator.domain.pools.actions import (
    Action,
    DrainWorker,
    MarkForDeletion,
    ResumeWorker,
    ScaleDeployment,
    UnmarkForDeletion,
)
from celery_operator.domain.pools.observation import ObservedDeployment, ObservedPod
from celery_operator.domain.pools.scaling import Decision


@dataclass(frozen=True, slots=True)
class ScaleIn:
    """What to do about workers that are not needed."""

    actions: tuple[Action, ...] = ()
    limit: Reason | None = None
    """For ScalingLimited: BUSY_WORKERS or ROLLOUT_IN_PROGRESS; None: nothing is in the way."""
    limit_message: str = ""
    under_way: bool = False
    """Whether workers are on their way out: look again soon."""


def plan_scale_in(deployment: ObservedDeployment, pods: tuple[ObservedPod, ...], decision: Decision) -> ScaleIn:
    """Return the next steps of scaling in (or of taking it back). ``pods`` are the active ones.

    While Kubernetes has not seen the last change, nothing is done. While pods of two revisions exist, nobody drains: a
    Deployment then divides a smaller number between its ReplicaSets as it likes.
    """
    if not deployment.seen:
        return ScaleIn(under_way=True)
    too_many = max(0, len(pods) - decision.working)
    if in_rollout(deployment, pods):
        message = "pods of two revisions run: scaling in waits until the rollout is done"
        waits = decision.desired < deployment.replicas
        return ScaleIn(_take_back(pods), Reason.ROLLOUT_IN_PROGRESS if waits else None, message if waits else "", waits)
    victims = choose_victims(pods, too_many, may_begin=decision.may_shrink)
    names = {pod.name for pod in victims}
    actions = [*_take_back(tuple(pod for pod in pods if pod.name not in names)), *_next_steps(victims, decision)]
    replicas = max(decision.desired, len(pods) - len(removable(victims, pods)))
    if decision.may_shrink and replicas < deployment.replicas:
        actions.append(ScaleDeployment(deployment.replicas, replicas, deployment.resource_version, decision.message))
    still_busy = too_many - len(victims)
    if decision.may_shrink and still_busy > 0:
        message = "fewer workers are wanted, but no further one is idle"
        return ScaleIn(tuple(actions), Reason.BUSY_WORKERS, message, bool(victims))
    return ScaleIn(tuple(actions), under_way=bool(victims))


def in_rollout(deployment: ObservedDeployment, pods: tuple[ObservedPod, ...]) -> bool:
    """Whether pods of more than one revision exist, or soon will."""
    return len({pod.revision for pod in pods}) > 1 or deployment.updated < deployment.existing


def choose_victims(pods: tuple[ObservedPod, ...], count: int, *, may_begin: bool) -> tuple[ObservedPod, ...]:
    """Return at most ``count`` workers that can go without losing anything.

    Those that have not begun come first, as Kubernetes would remove them first anyway; then those that are drained;
    then idle ones that drain already; then the longest idle. A worker that took a task just before it was told to drain
    goes on draining, but nobody who is busy is newly chosen. ``may_begin`` False: only who is already on the way out.
    """
    candidates = [(_preference(pod), pod) for pod in pods if _can_go(pod, may_begin=may_begin)]
    return tuple(pod for _, pod in sorted(candidates, key=lambda each: each[0])[:count])


def _can_go(pod: ObservedPod, *, may_begin: bool) -> bool:
    if pod.starting:
        return may_begin or pod.marked
    return pod.draining or (may_begin and pod.state is not None and pod.held == 0)


def _preference(pod: ObservedPod) -> tuple[int, tuple[bool, bool, bool], float, str]:
    if pod.state is None:
        return (0, pod.removal_rank, 0.0, pod.name)
    if pod.state.drained:
        order = 1
    elif pod.held == 0:
        order = 2 if pod.draining else 3
    else:
        order = 4
    return (order, pod.removal_rank, -pod.state.idle_seconds, pod.name)


def removable(victims: tuple[ObservedPod, ...], pods: tuple[ObservedPod, ...]) -> tuple[ObservedPod, ...]:
    """Return the victims that Kubernetes would choose by itself, were replicas lowered by their number now.

    They hold nothing, their mark has been seen, and everybody else stands behind them in Kubernetes' order. A mark on
    somebody else, who is needed after all, has to be gone first.
    """
    gone = [pod for pod in victims if pod.marked and _holds_nothing(pod)]
    names = {pod.name for pod in gone}
    others = [_order(pod) for pod in pods if pod.name not in names]
    return tuple(pod for pod in gone if not others or _order(pod) < min(others))


def _order(pod: ObservedPod) -> tuple[tuple[bool, bool, bool], bool]:
    return (pod.removal_rank, not pod.marked)


def _holds_nothing(pod: ObservedPod) -> bool:
    return pod.starting or (pod.state is not None and pod.state.drained and pod.held == 0)


def _next_steps(victims: tuple[ObservedPod, ...], decision: Decision) -> list[Action]:
    if not decision.may_shrink:
        return []
    steps: list[Action] = []
    for pod in victims:
        if _holds_nothing(pod):
            if not pod.marked:
                steps.append(MarkForDeletion(pod.name))
            continue
        if pod.marked:
            steps.append(UnmarkForDeletion(pod.name))
        if not pod.draining and pod.address is not None:
            steps.append(DrainWorker(pod.name, pod.address, decision.message))
    return steps


def _take_back(pods: tuple[ObservedPod, ...]) -> tuple[Action, ...]:
    """Unmark and resume workers that were to go and are needed after all."""
    unmark: list[Action] = [UnmarkForDeletion(pod.name) for pod in pods if pod.marked]
    resume: list[Action] = [
        ResumeWorker(pod.name, pod.address) for pod in pods if pod.draining and pod.address is not None
    ]
    return (*unmark, *resume)
