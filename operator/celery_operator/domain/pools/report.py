"""A pool's status: from the same observation and plan that the actions came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from celery_operator.api.conditions import Condition, ConditionType, Reason
from celery_operator.api.worker_pool import AutoscalingStatus, QueueStatus, Slots, WorkerPoolSpec, WorkerPoolStatus
from celery_operator.domain.conditions import ConditionClaim, rfc3339, set_conditions
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.manifests import has_agent
from celery_operator.domain.pools.naming import selector
from celery_operator.domain.pools.observation import ObservedPool
from celery_operator.domain.pools.plan import Plan, limited_by
from celery_operator.domain.pools.scaling import fixed_replicas

SELDOM: Final = ("slots", "queues", "waiting")
"""Fields that change with every task: they alone are no reason to write the status at once."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose status it is."""

    name: str
    generation: int
    previous: WorkerPoolStatus | None = None

    @property
    def conditions(self) -> list[Condition]:
        """The conditions as written last."""
        return [] if self.previous is None else self.previous.conditions


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the resource is accepted, and whether Kubernetes accepted what was applied for it."""

    error: SpecError | None = None
    refusal: str | None = None
    """Kubernetes' words when it refused the Deployment."""


def pool_status(
    subject: Subject,
    spec: WorkerPoolSpec | None,
    observed: ObservedPool,
    plan: Plan | None,
    verdict: Verdict,
    *,
    now: datetime,
) -> WorkerPoolStatus:
    """Return the status to write.

    ``spec`` and ``plan`` are those the pool runs by: of the last accepted spec if this one is not, None if none was.
    """
    deployment = observed.deployment
    claims = list(_claims(subject, spec, observed, plan, verdict))
    return WorkerPoolStatus(
        observed_generation=subject.generation,
        replicas=0 if deployment is None else deployment.existing,
        ready_replicas=0 if deployment is None else deployment.ready,
        desired_replicas=_desired(observed, plan),
        draining_replicas=sum(pod.draining for pod in observed.active),
        selector=selector(subject.name),
        slots=_slots(observed),
        queues=[QueueStatus(name=name, waiting=count) for name, count in (observed.waiting or {}).items()],
        waiting=None if observed.waiting is None else sum(observed.waiting.values()),
        autoscaling=None if spec is None or plan is None else _autoscaling(subject, spec, plan, now),
        conditions=set_conditions(subject.conditions, claims, generation=subject.generation, now=now),
    )


def _desired(observed: ObservedPool, plan: Plan | None) -> int:
    if plan is not None:
        return plan.decision.desired
    return 0 if observed.deployment is None else observed.deployment.replicas


def _slots(observed: ObservedPool) -> Slots | None:
    states = [pod.state for pod in observed.active if pod.state is not None]
    if not states and any(pod.started for pod in observed.active):
        return None
    return Slots(
        total=sum(state.slots for state in states),
        busy=sum(state.active for state in states),
        reserved=sum(state.reserved for state in states),
        scheduled=sum(state.scheduled + state.scheduled_due for state in states),
    )


def _autoscaling(subject: Subject, spec: WorkerPoolSpec, plan: Plan, now: datetime) -> AutoscalingStatus:
    previous = subject.previous
    last = None if previous is None or previous.autoscaling is None else previous.autoscaling.last_scale_time
    if previous is not None and previous.desired_replicas != plan.decision.desired:
        last = rfc3339(now)
    limit, _ = limited_by(plan)
    return AutoscalingStatus(
        mode="Fixed" if spec.autoscaling is None else "Native",
        recommended_replicas=plan.decision.recommended,
        limited_by=None if limit is Reason.WITHIN_RANGE else limit.value,
        last_scale_time=last,
    )


def _claims(
    subject: Subject, spec: WorkerPoolSpec | None, observed: ObservedPool, plan: Plan | None, verdict: Verdict
) -> Iterator[ConditionClaim]:
    if verdict.error is None:
        yield ConditionClaim(ConditionType.ACCEPTED, "True", Reason.ACCEPTED)
    else:
        yield ConditionClaim(ConditionType.ACCEPTED, "False", verdict.error.reason, verdict.error.message)
    if verdict.error is not None or spec is None or plan is None:
        message = "see Accepted; what runs goes on as it was accepted last"
        yield ConditionClaim(ConditionType.READY, "False", Reason.NOT_ACCEPTED, message)
        yield ConditionClaim(ConditionType.RECONCILING, "False", Reason.NOT_ACCEPTED, message)
        yield ConditionClaim(ConditionType.STALLED, "True", Reason.NOT_ACCEPTED, message)
    else:
        refusal = verdict.refusal or (None if observed.deployment is None else observed.deployment.refusal)
        yield _ready(spec, observed, plan, refusal)
        yield _reconciling(spec, observed, plan, refusal)
        yield _stalled(observed, refusal)
    yield _broker(observed)
    yield from _scaling(plan)
    if plan is None:
        yield ConditionClaim(ConditionType.DRAIN_SUPPORTED, "Unknown", Reason.NOT_CHECKED)
    else:
        yield _drain_supported(subject, spec, observed)


def smallest(spec: WorkerPoolSpec) -> int:
    """Return the smallest number of workers that the pool may have."""
    return fixed_replicas(spec) if spec.autoscaling is None else spec.autoscaling.min_replicas


def _trouble(observed: ObservedPool) -> str | None:
    return next((f"pod {pod.name}: {pod.trouble}" for pod in observed.active if pod.trouble), None)


def _ready(spec: WorkerPoolSpec, observed: ObservedPool, plan: Plan, refusal: str | None) -> ConditionClaim:
    ready = 0 if observed.deployment is None else observed.deployment.ready
    if refusal is not None:
        return ConditionClaim(ConditionType.READY, "False", Reason.PODS_REFUSED, refusal)
    trouble = _trouble(observed)
    needed = min(smallest(spec), plan.decision.desired) if spec.autoscaling is not None else smallest(spec)
    if ready == 0 and plan.decision.desired > 0 and trouble is not None:
        needed = max(needed, 1)
    if observed.deployment is None:
        message = "the workers' Deployment is being created"
        return ConditionClaim(ConditionType.READY, "False", Reason.REPLICAS_NOT_READY, message)
    if ready < needed:
        message = f"{ready} of {needed} needed workers are ready" + (f"; {trouble}" if trouble else "")
        return ConditionClaim(ConditionType.READY, "False", Reason.REPLICAS_NOT_READY, message)
    return ConditionClaim(ConditionType.READY, "True", Reason.MINIMUM_REPLICAS_READY, f"at least {needed} are ready")


def _reconciling(spec: WorkerPoolSpec, observed: ObservedPool, plan: Plan, refusal: str | None) -> ConditionClaim:
    """Towards the spec: an applied, seen and rolled out Deployment with the smallest number ready.

    Following demand is what a pool does when it has reached its spec, and does not count; neither does scaling in.
    """
    deployment = observed.deployment
    message = ""
    if deployment is None:
        message = "the workers' Deployment is being created"
    elif not deployment.seen or any(_changes(action) for action in plan.actions):
        message = "Kubernetes has not seen the latest change yet"
    elif deployment.updated < deployment.existing:
        message = f"{deployment.updated} of {deployment.existing} workers run the latest revision"
    elif deployment.ready < min(smallest(spec), plan.decision.desired):
        message = f"{deployment.ready} of {smallest(spec)} workers are ready"
    if message and refusal is None:
        return ConditionClaim(ConditionType.RECONCILING, "True", Reason.PROGRESSING, message)
    return ConditionClaim(ConditionType.RECONCILING, "False", Reason.SETTLED)


def _changes(action: object) -> bool:
    return type(action).__name__ in ("ApplyDeployment", "CreateTokenSecret")


def _stalled(observed: ObservedPool, refusal: str | None) -> ConditionClaim:
    if refusal is not None:
        return ConditionClaim(ConditionType.STALLED, "True", Reason.PODS_REFUSED, refusal)
    overdue = None if observed.deployment is None else observed.deployment.overdue
    if overdue is not None:
        message = "; ".join(filter(None, (overdue, _trouble(observed))))
        return ConditionClaim(ConditionType.STALLED, "True", Reason.REPLICAS_NOT_READY, message)
    return ConditionClaim(ConditionType.STALLED, "False", Reason.MAKING_PROGRESS)


def _broker(observed: ObservedPool) -> ConditionClaim:
    if observed.broker_trouble is not None:
        trouble = observed.broker_trouble
        return ConditionClaim(ConditionType.BROKER_REACHABLE, "False", trouble.reason, trouble.message)
    if observed.waiting is None:
        return ConditionClaim(ConditionType.BROKER_REACHABLE, "Unknown", Reason.NOT_CHECKED)
    return ConditionClaim(ConditionType.BROKER_REACHABLE, "True", Reason.CONNECTED)


def _scaling(plan: Plan | None) -> Iterator[ConditionClaim]:
    if plan is None:
        yield ConditionClaim(ConditionType.SCALING_ACTIVE, "Unknown", Reason.NOT_CHECKED)
        yield ConditionClaim(ConditionType.SCALING_LIMITED, "Unknown", Reason.NOT_CHECKED)
        return
    decision = plan.decision
    following = decision.reason is Reason.FOLLOWING_DEMAND
    # The numbers of each look stand in the status already; a message that changed with every task would only be noise.
    message = "" if following else decision.message
    yield ConditionClaim(ConditionType.SCALING_ACTIVE, "True" if following else "False", decision.reason, message)
    limit, message = limited_by(plan)
    limited = limit is not Reason.WITHIN_RANGE
    yield ConditionClaim(ConditionType.SCALING_LIMITED, "True" if limited else "False", limit, message)


def _drain_supported(subject: Subject, spec: WorkerPoolSpec | None, observed: ObservedPool) -> ConditionClaim:
    if spec is not None and not has_agent(spec):
        message = "spec.worker.agent is None: running tasks are not counted, and workers go without being drained first"
        return ConditionClaim(ConditionType.DRAIN_SUPPORTED, "False", Reason.AGENT_MISSING, message)
    silent = [pod.name for pod in observed.active if pod.silent]
    if silent:
        message = f"no answer from the agent of {len(silent)} workers, for instance {silent[0]}"
        return ConditionClaim(ConditionType.DRAIN_SUPPORTED, "Unknown", Reason.NOT_CHECKED, message)
    if any(pod.state is not None for pod in observed.active):
        return ConditionClaim(ConditionType.DRAIN_SUPPORTED, "True", Reason.AGENT_REPORTS)
    for condition in subject.conditions:
        if condition.type == ConditionType.DRAIN_SUPPORTED and condition.status == "True":
            # No worker runs; the last ones reported.
            return ConditionClaim(ConditionType.DRAIN_SUPPORTED, "True", Reason.AGENT_REPORTS)
    return ConditionClaim(ConditionType.DRAIN_SUPPORTED, "Unknown", Reason.NOT_CHECKED, "no worker has reported yet")


def differs_only_in_counts(previous: WorkerPoolStatus, current: WorkerPoolStatus) -> bool:
    """Whether two statuses are the same but for numbers that change with every task."""
    without = dict.fromkeys(SELDOM)
    return _quiet(previous, without) == _quiet(current, without)


def _quiet(status: WorkerPoolStatus, without: dict[str, None]) -> WorkerPoolStatus:
    scaling = status.autoscaling
    quiet = None if scaling is None else scaling.model_copy(update={"recommended_replicas": None})
    return status.model_copy(update={**without, "autoscaling": quiet})
