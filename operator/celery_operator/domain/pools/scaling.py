"""How many replicas a pool should have, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import Autoscaling, WorkerPoolSpec
from celery_operator.domain.pools.arguments import slots_per_worker
from celery_operator.domain.pools.demand import Demand

NAMED_UNSEEN: Final = 3
"""How many silent workers a message names."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What demand asked for at a time."""

    at: datetime
    replicas: int


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What scaling has to remember from one look to the next. Losing it only delays scaling in."""

    recommendations: tuple[Recommendation, ...] = ()
    """Newest last, strictly falling: an older one that is not larger can never count again."""
    idle_since: datetime | None = None
    """Since when nothing at all has been left to do."""

    def remember(self, at: datetime, replicas: int, window: timedelta) -> ScalingMemory:
        """Return the memory with one more recommendation, without those that have left the window."""
        kept = tuple(each for each in self.recommendations if each.at > at - window and each.replicas > replicas)
        return replace(self, recommendations=(*kept, Recommendation(at, replicas)))


@dataclass(frozen=True, slots=True)
class Decision:
    """What scaling decided."""

    desired: int
    """Replicas to have."""
    working: int
    """Replicas that must not be draining: less than desired only while demand is not fully known."""
    may_shrink: bool
    """Whether workers may be told to drain, and replicas lowered."""
    reason: Reason
    """For ScalingActive: FOLLOWING_DEMAND, FIXED_REPLICAS or DEMAND_UNKNOWN."""
    message: str
    recommended: int | None = None
    """What demand alone asks for; None: fixed."""
    limit: Reason = Reason.WITHIN_RANGE
    """For ScalingLimited: WITHIN_RANGE, TOO_FEW_REPLICAS or TOO_MANY_REPLICAS."""
    limit_message: str = ""


def fixed_replicas(spec: WorkerPoolSpec) -> int:
    """Return the replicas of a pool without autoscaling."""
    return 1 if spec.replicas is None else spec.replicas


def decide(
    spec: WorkerPoolSpec, demand: Demand, replicas: int, memory: ScalingMemory, *, now: datetime
) -> tuple[Decision, ScalingMemory]:
    """Return the decision, given the Deployment's replicas, and what to remember.

    Up at once; down to the largest recommendation of the stabilization window; to zero only after the idle timeout.
    Unknown demand holds the replicas; what is known may still ask for more.
    """
    if spec.autoscaling is None:
        count = fixed_replicas(spec)
        return Decision(count, count, True, Reason.FIXED_REPLICAS, f"spec.replicas is {count}"), ScalingMemory()  # noqa: FBT003
    scaling = spec.autoscaling
    needed = replicas_for(demand, spec, scaling)
    idle_since = (memory.idle_since or now) if demand.nothing_left else None
    memory = replace(memory if memory.recommendations else _seeded(memory, replicas, now), idle_since=idle_since)
    window = timedelta(seconds=scaling.behavior.scale_down.stabilization_window_seconds)
    if not demand.exact:
        # Remembering what is held makes the window begin anew when everything answers again.
        return _hold(scaling, demand, needed, replicas), memory.remember(now, max(needed, replicas), window)
    memory = memory.remember(now, needed, window)
    return _follow(scaling, demand, needed, replicas, memory, now=now), memory


def replicas_for(demand: Demand, spec: WorkerPoolSpec, scaling: Autoscaling) -> int:
    """Return the replicas that the visible demand asks for, without bounds: the largest answer of all metrics.

    Tasks held for later keep one worker: on Redis they live in its memory.
    """
    slots = slots_per_worker(spec.worker)
    answers = [-(-demand.known // (slots * metric.target)) for metric in scaling.metrics]
    return max(*answers, 1 if demand.later else 0, 0)


def _seeded(memory: ScalingMemory, replicas: int, now: datetime) -> ScalingMemory:
    """What runs when the operator begins to look counts as recommended: a restart never shrinks a pool at once."""
    return replace(memory, recommendations=(Recommendation(now, replicas),))


def _hold(scaling: Autoscaling, demand: Demand, needed: int, replicas: int) -> Decision:
    working = _clamp(needed, scaling)
    names = ", ".join(demand.unseen[:NAMED_UNSEEN])
    more = len(demand.unseen) - NAMED_UNSEEN
    unseen = f"{names} and {more} more" if more > 0 else names
    desired = max(replicas, working)
    message = f"no answer from {unseen}: replicas are not reduced"
    limit, limit_message = _limit(needed, scaling)
    return Decision(
        desired=desired,
        working=working,
        may_shrink=False,
        reason=Reason.DEMAND_UNKNOWN,
        message=message,
        recommended=needed,
        limit=limit if limit is Reason.TOO_MANY_REPLICAS else Reason.WITHIN_RANGE,
        limit_message=limit_message if limit is Reason.TOO_MANY_REPLICAS else "",
    )


def _follow(
    scaling: Autoscaling, demand: Demand, needed: int, replicas: int, memory: ScalingMemory, *, now: datetime
) -> Decision:
    message = f"a demand of {demand.known} asks for {needed}"
    steady = needed
    if needed < replicas:
        steady = min(replicas, max(each.replicas for each in memory.recommendations))
        if steady > needed:
            message += (
                f"; {steady} were needed within the last {scaling.behavior.scale_down.stabilization_window_seconds} s"
            )
    idle_timeout = timedelta(seconds=scaling.idle_timeout_seconds)
    if steady == 0 and replicas > 0 and not (memory.idle_since and now - memory.idle_since >= idle_timeout):
        steady = 1
        message += f"; the last one stays until nothing was left to do for {scaling.idle_timeout_seconds} s"
    limit, limit_message = _limit(steady, scaling)
    desired = _clamp(steady, scaling)
    return Decision(desired, desired, True, Reason.FOLLOWING_DEMAND, message, needed, limit, limit_message)  # noqa: FBT003


def _limit(wanted: int, scaling: Autoscaling) -> tuple[Reason, str]:
    if wanted > scaling.max_replicas:
        return Reason.TOO_MANY_REPLICAS, f"demand asks for more than maxReplicas ({scaling.max_replicas})"
    if wanted < scaling.min_replicas:
        return Reason.TOO_FEW_REPLICAS, f"demand asks for fewer than minReplicas ({scaling.min_replicas})"
    return Reason.WITHIN_RANGE, ""


def _clamp(wanted: int, scaling: Autoscaling) -> int:
    return min(max(wanted, scaling.min_replicas), scaling.max_replicas)
