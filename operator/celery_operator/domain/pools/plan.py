"""The plan for one pool: from spec, observation and memory to actions. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.domain.pools.actions import Action, ApplyDeployment, CreateTokenSecret, ScaleDeployment
from celery_operator.domain.pools.demand import Demand, measure
from celery_operator.domain.pools.draining import ScaleIn, plan_scale_in
from celery_operator.domain.pools.manifests import has_agent
from celery_operator.domain.pools.observation import ObservedDeployment, ObservedPool
from celery_operator.domain.pools.scaling import Decision, ScalingMemory, decide

SOON: Final = timedelta(milliseconds=300)
"""When to look again while something is under way."""
FIXED_PERIOD: Final = timedelta(seconds=1)
"""How often a pool of fixed size is looked at for its status, and any pool at least while its pods come and go."""


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What a pool's plans remember. All of it can be lost without harm."""

    scaling: ScalingMemory = field(default_factory=ScalingMemory)
    applied_generation: int | None = None
    """The Deployment's generation after the operator's own last write; another one means that somebody changed it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to remember, and what the report needs to know."""

    actions: tuple[Action, ...]
    memory: PoolMemory
    decision: Decision
    demand: Demand
    scale_in: ScaleIn
    look_again: timedelta


def plan_pool(
    spec: WorkerPoolSpec, observed: ObservedPool, memory: PoolMemory, *, manifest_hash: str | None, now: datetime
) -> Plan:
    """Return the plan. ``manifest_hash`` is that of the Deployment as the spec wants it; None: leave it as it is."""
    deployment = observed.deployment
    demand = measure(observed, agent=has_agent(spec))
    replicas = 0 if deployment is None else deployment.replicas
    decision, scaling = decide(spec, demand, replicas, memory.scaling, now=now)
    actions, scale_in = _actions(spec, observed, memory, decision, manifest_hash)
    return Plan(
        actions=actions,
        memory=replace(memory, scaling=scaling),
        decision=decision,
        demand=demand,
        scale_in=scale_in,
        look_again=SOON if actions or scale_in.under_way else _period(spec, deployment),
    )


def _period(spec: WorkerPoolSpec, deployment: ObservedDeployment | None) -> timedelta:
    """While pods come and go, every second; else as the spec says."""
    settled = deployment is not None and deployment.replicas == deployment.existing == deployment.ready
    scaling = spec.autoscaling
    period = FIXED_PERIOD if scaling is None else timedelta(seconds=scaling.poll_period_seconds)
    return period if settled else min(period, FIXED_PERIOD)


def _actions(
    spec: WorkerPoolSpec, observed: ObservedPool, memory: PoolMemory, decision: Decision, manifest_hash: str | None
) -> tuple[tuple[Action, ...], ScaleIn]:
    deployment = observed.deployment
    if not observed.has_token:
        # Everything else depends on it; the next look follows at once.
        return (CreateTokenSecret(),), ScaleIn(under_way=True)
    if deployment is None:
        if manifest_hash is None:
            return (), ScaleIn()
        return (ApplyDeployment(decision.desired, None, decision.message),), ScaleIn()
    if deployment.deleting:
        return (), ScaleIn(under_way=True)
    if manifest_hash is not None and _differs(deployment, memory, manifest_hash):
        # Applying changes the resourceVersion: scaling in has to wait for the next look, scaling out goes along.
        replicas = max(deployment.replicas, decision.desired)
        return (ApplyDeployment(replicas, deployment.resource_version, decision.message),), ScaleIn(under_way=True)
    return _scale(spec, deployment, observed, decision)


def _differs(deployment: ObservedDeployment, memory: PoolMemory, manifest_hash: str) -> bool:
    changed_by_others = memory.applied_generation is not None and memory.applied_generation != deployment.generation
    return deployment.manifest_hash != manifest_hash or changed_by_others


def _scale(
    spec: WorkerPoolSpec, deployment: ObservedDeployment, observed: ObservedPool, decision: Decision
) -> tuple[tuple[Action, ...], ScaleIn]:
    before, version = deployment.replicas, deployment.resource_version
    change = ScaleDeployment(before, decision.desired, version, decision.message)
    if not has_agent(spec):
        shrinks = decision.desired < before and not decision.may_shrink
        return (() if before == decision.desired or shrinks else (change,)), ScaleIn()
    if decision.desired > before:
        scale_in = plan_scale_in(
            replace(deployment, observed_generation=deployment.generation), observed.active, decision
        )
        return (*scale_in.actions, change), scale_in
    scale_in = plan_scale_in(deployment, observed.active, decision)
    return scale_in.actions, scale_in


def limited_by(plan: Plan) -> tuple[Reason, str]:
    """Return the reason and message of ScalingLimited."""
    if plan.scale_in.limit is not None:
        return plan.scale_in.limit, plan.scale_in.limit_message
    return plan.decision.limit, plan.decision.limit_message
