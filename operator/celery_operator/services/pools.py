"""Worker pools: observe once, plan, apply, report once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, assert_never

from pydantic import ValidationError

from celery_operator.api.conditions import Condition, Reason
from celery_operator.api.worker_pool import WorkerPoolSpec, WorkerPoolStatus
from celery_operator.domain.errors import ClusterError, Conflict, DependencyError, Gone, SpecError
from celery_operator.domain.pools import naming
from celery_operator.domain.pools.actions import (
    Action,
    ApplyDeployment,
    CreateTokenSecret,
    DrainWorker,
    MarkForDeletion,
    ResumeWorker,
    ScaleDeployment,
    UnmarkForDeletion,
)
from celery_operator.domain.pools.manifests import (
    has_agent,
    token_secret,
    with_replicas,
)
from celery_operator.domain.pools.observation import (
    BrokerTrouble,
    ObservedDeployment,
    ObservedPod,
    ObservedPool,
    observed_deployment,
    observed_pod,
)
from celery_operator.domain.pools.plan import SOON, Plan, plan_pool
from celery_operator.domain.pools.report import Subject, Verdict, differs_only_in_counts, pool_status
from celery_operator.services.apps import AppResolver, without_url
from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.pool_acceptance import AcceptedPool, PoolAcceptance, PoolLook, is_ours
from celery_operator.services.ports import (
    Clock,
    Cluster,
    Connections,
    Manifest,
    Metrics,
    NoMetrics,
    ObjectKey,
    PoolCounts,
    WorkerAgents,
)
from celery_operator.services.status import StatusKeeper
from celery_patterns.protocol import new_token

NOT_ACCEPTED_PERIOD: Final = timedelta(seconds=1)
"""What is missing heals within a second of appearing."""
REFUSED_PERIOD: Final = timedelta(seconds=5)
"""What Kubernetes refused once it will hardly take a moment later."""
COUNTS_SECONDS: Final = 5.0
"""Counts alone are written this often: hundreds of busy pools would otherwise write without end."""
AT_ONCE: Final = 16
"""Pods that are annotated, drained or resumed at the same time."""


class PoolReconciler:
    """Brings pools towards their specs.

    Args:
        cluster: The Kubernetes API.
        connections: Brokers by URL.
        agents: The agents inside workers.
        apps: Follows the pool's reference to its application.
        clock: Time.
        worker_image: Image of pools that name none themselves nor in their application.
        metrics: What pools are meant to have is told there.
        guarded: The queues of pools whose workers guard attempts are noted there, for the workflows.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        connections: Connections,
        agents: WorkerAgents,
        apps: AppResolver,
        clock: Clock,
        worker_image: str,
        metrics: Metrics | None = None,
        guarded: GuardedQueues | None = None,
    ) -> None:
        self._metrics = metrics or NoMetrics()
        self._guarded = guarded or GuardedQueues()
        self._cluster = cluster
        self._connections = connections
        self._agents = agents
        self._clock = clock
        self._acceptance = PoolAcceptance(
            cluster=cluster, connections=connections, apps=apps, clock=clock, worker_image=worker_image
        )
        self._status = StatusKeeper(cluster, "CeleryWorkerPool")

    async def reconcile(self, manifest: Manifest) -> timedelta:
        """Observe, plan, apply and report once; return when to look again.

        A wrong resource becomes a condition, an unreachable broker too. Raises Gone if the pool was deleted,
        ClusterError if Kubernetes does not answer.
        """
        if "deletionTimestamp" in manifest["metadata"]:
            return NOT_ACCEPTED_PERIOD
        look = await self._acceptance.begin(self._status.newest(manifest))
        deployment = await self._deployment(look)
        if deployment is None:
            await self._status.must_exist(look.manifest)  # else what it owned would be made, and removed, for ever
        if look.left_over or (deployment is not None and deployment.deleting):
            return SOON  # an earlier pool of this name, or its Deployment, is still being removed
        error = None
        try:
            look.kept.accepted = await self._acceptance.accept(look, deployment)
        except SpecError as refused:
            error = refused
        accepted = look.kept.accepted if is_ours(deployment, look) and not look.foreign else None
        if accepted is not None and has_agent(accepted.spec):
            self._guarded.note(look.key, accepted.app.broker_url, (queue.name for queue in accepted.spec.queues))
        else:
            self._guarded.forget(look.key)
        observed = await self._observe(look, deployment, accepted)
        if accepted is None:
            status = self._report(look, None, observed, None, Verdict(error))
            await self._write(look, status)
            return NOT_ACCEPTED_PERIOD
        plan = plan_pool(
            accepted.spec,
            observed,
            look.kept.plan,
            manifest_hash=None if error is not None else accepted.manifest_hash,
            now=self._clock.now(),
        )
        look.kept.plan = plan.memory
        verdict, in_time = await self._apply(look, accepted, plan, error)
        written = await self._write(look, self._report(look, accepted.spec, observed, plan, verdict))
        if not (written and in_time):
            return SOON
        if verdict.refusal is not None:
            return REFUSED_PERIOD
        return min(plan.look_again, NOT_ACCEPTED_PERIOD) if error is not None else plan.look_again

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered about a deleted pool; Kubernetes removes what it owned."""
        self._acceptance.forget(key)
        self._status.forget(key)
        self._metrics.forget_pool(key)
        self._guarded.forget(key)

    # ------------------------------------------------------------------------------------------------------- observe

    async def _deployment(self, look: PoolLook) -> ObservedDeployment | None:
        manifest = await self._cluster.get("Deployment", look.deployment_key)
        return None if manifest is None else observed_deployment(manifest)

    async def _observe(
        self, look: PoolLook, deployment: ObservedDeployment | None, accepted: AcceptedPool | None
    ) -> ObservedPool:
        (waiting, trouble), pods = await asyncio.gather(self._ask_broker(accepted), self._ask_workers(look, accepted))
        return ObservedPool(
            deployment=deployment,
            pods=pods,
            waiting=waiting,
            broker_trouble=trouble,
            has_token=look.token is not None,
        )

    async def _ask_broker(self, accepted: AcceptedPool | None) -> tuple[dict[str, int] | None, BrokerTrouble | None]:
        if accepted is None:
            return None, None
        url = accepted.app.broker_url
        try:
            broker = self._connections.broker(url)
            counts = await broker.waiting([queue.name for queue in accepted.spec.queues])
        except (DependencyError, SpecError) as error:
            return None, BrokerTrouble(error.reason, without_url(error.message, url))
        return dict(counts), None

    async def _ask_workers(self, look: PoolLook, accepted: AcceptedPool | None) -> tuple[ObservedPod, ...]:
        manifests = await self._cluster.pods(look.key.namespace, naming.pool_labels(look.key.name))
        pods = [observed_pod(manifest) for manifest in manifests]
        if accepted is None or not has_agent(accepted.spec):
            return tuple(pods)
        return tuple(await asyncio.gather(*(self._ask_worker(pod) for pod in pods)))

    async def _ask_worker(self, pod: ObservedPod) -> ObservedPod:
        if pod.address is None or not pod.active:
            return pod
        return replace(pod, state=await self._agents.state(pod.address))

    # --------------------------------------------------------------------------------------------------------- apply

    async def _apply(
        self, look: PoolLook, accepted: AcceptedPool, plan: Plan, error: SpecError | None
    ) -> tuple[Verdict, bool]:
        """Carry out a plan: what concerns workers first, then the Deployment. False beside: it came too late."""
        try:
            changes = [each for each in plan.actions if isinstance(each, ApplyDeployment | ScaleDeployment)]
            await self._together(look, [each for each in plan.actions if each not in changes])
            for action in changes:
                await self._carry_out(look, accepted, action)
        except (Conflict, Gone):
            return Verdict(error), False
        except _Refused as refused:
            return Verdict(error, refused.message), True
        await self._tell(look, plan.actions)
        return Verdict(error), True

    async def _together(self, look: PoolLook, actions: Iterable[Action]) -> None:
        """Carry out actions on workers side by side; if some fail the others are done all the same."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(action: Action) -> None:
            async with turns:
                await self._on_worker(look, action)

        results = await asyncio.gather(*(one(action) for action in actions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _on_worker(self, look: PoolLook, action: Action) -> None:
        match action:
            case CreateTokenSecret():
                await _or_refused(self._cluster.create(token_secret(look.identity, new_token())))
                look.kept.token = None
            case DrainWorker():
                await self._agents.drain(action.address, look.token or "")
            case ResumeWorker():
                await self._agents.resume(action.address, look.token or "")
            case MarkForDeletion():
                await self._annotate(look, action.pod, naming.MARKED_COST)
            case UnmarkForDeletion():
                await self._annotate(look, action.pod, None)
            case ApplyDeployment() | ScaleDeployment():
                raise AssertionError("changes of the Deployment come after those of workers, one by one")
            case _:
                assert_never(action)

    async def _annotate(self, look: PoolLook, pod: str, cost: str | None) -> None:
        key = ObjectKey(look.key.namespace, pod)
        await self._cluster.annotate_pod(key, {naming.ANNOTATION_DELETION_COST: cost})

    async def _carry_out(
        self, look: PoolLook, accepted: AcceptedPool, action: ApplyDeployment | ScaleDeployment
    ) -> None:
        match action:
            case ApplyDeployment():
                manifest = with_replicas(accepted.deployment, action.replicas, action.resource_version)
                result = await _or_refused(self._cluster.apply(manifest))
            case ScaleDeployment():
                key, version = look.deployment_key, action.resource_version
                result = await _or_refused(self._cluster.scale(key, action.replicas, resource_version=version))
            case _:
                assert_never(action)
        look.kept.plan = replace(look.kept.plan, applied_generation=result["metadata"].get("generation"))

    async def _tell(self, look: PoolLook, actions: Iterable[Action]) -> None:
        """Write an Event for what people want to know of what was done."""
        drained = [action for action in actions if isinstance(action, DrainWorker)]
        if drained:
            names = ", ".join(action.pod for action in drained)
            await self._event(look, Reason.DRAIN_STARTED, f"{names}: {drained[0].message}")
        for action in actions:
            match action:
                case ApplyDeployment(resource_version=None):
                    message = f"{look.deployment_key.name} with {action.replicas} replicas"
                    await self._event(look, Reason.CREATED_DEPLOYMENT, message)
                case ApplyDeployment():
                    await self._event(
                        look, Reason.UPDATED_DEPLOYMENT, f"{look.deployment_key.name} was brought up to date"
                    )
                case ScaleDeployment():
                    reason = Reason.SCALED_OUT if action.replicas > action.before else Reason.SCALED_IN
                    await self._event(look, reason, f"{action.before} → {action.replicas}: {action.message}")
                case _:
                    pass

    async def _event(self, look: PoolLook, reason: Reason, message: str) -> None:
        await self._status.record(look.manifest, "Normal", reason.value, message)

    # -------------------------------------------------------------------------------------------------------- report

    def _report(
        self, look: PoolLook, spec: WorkerPoolSpec | None, observed: ObservedPool, plan: Plan | None, verdict: Verdict
    ) -> WorkerPoolStatus:
        subject = Subject(look.key.name, look.generation, _previous(look.manifest))
        status = pool_status(subject, spec, observed, plan, verdict, now=self._clock.now())
        waiting: dict[str, int | None] = {queue.name: queue.waiting for queue in status.queues}
        self._metrics.pool(
            look.key, desired_replicas=status.desired_replicas, waiting=waiting, counts=_counts(observed)
        )
        return status

    async def _write(self, look: PoolLook, status: WorkerPoolStatus) -> bool:
        """Write the status if it says something new; mere counts only now and then. False: look again."""
        previous, now = _previous(look.manifest), self._clock.monotonic()
        recent = now - look.kept.counts_written_at < COUNTS_SECONDS
        if recent and previous is not None and differs_only_in_counts(previous, status):
            return True
        before: list[Condition] = [] if previous is None else previous.conditions
        written = await self._status.write(look.manifest, status.to_resource(), before, status.conditions)
        if written:
            look.kept.counts_written_at = now
        return written


class _Refused(Exception):  # noqa: N818 - not an error of the operator's
    """Kubernetes refused what the pool's workers need: their Deployment, or the Secret with their token."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


async def _or_refused(answer: Awaitable[Manifest]) -> Manifest:
    try:
        return await answer
    except (Conflict, Gone):
        raise
    except ClusterError as error:
        raise _Refused(error.message) from error


def _previous(manifest: Manifest) -> WorkerPoolStatus | None:
    status: dict[str, Any] | None = manifest.get("status")
    if not status:
        return None
    try:
        return WorkerPoolStatus.model_validate(status)
    except ValidationError:
        return None


def _counts(observed: ObservedPool) -> PoolCounts | None:
    """Return what the workers that answer are and have; None where some may be up and none says so."""
    states = [pod.state for pod in observed.active if pod.state is not None]
    if not states and any(pod.started for pod in observed.active):
        return None
    return PoolCounts(
        workers=len(states),
        consuming=sum(not state.draining for state in states),
        slots=sum(state.slots for state in states),
    )
