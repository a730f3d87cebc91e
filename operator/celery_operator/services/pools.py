"""Worker pools: observe once, plan, apply, report once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, assert_never

from pydantic import ValidationError

from celery_operator.api.conditions import Condition, Reason
from celery_operator.api.worker_pool import CeleryWorkerPool, WorkerPoolSpec, WorkerPoolStatus
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
    PoolIdentity,
    has_agent,
    token_secret,
    with_replicas,
    worker_deployment,
)
from celery_operator.domain.pools.observation import (
    BrokerTrouble,
    ObservedDeployment,
    ObservedPod,
    ObservedPool,
    controlling_owner,
    observed_deployment,
    observed_pod,
)
from celery_operator.domain.pools.plan import SOON, Plan, PoolMemory, plan_pool
from celery_operator.domain.pools.report import Subject, Verdict, differs_only_in_counts, pool_status
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_operator.domain.pools.validation import check_pool
from celery_operator.services.apps import AppResolver, secret_text, without_url
from celery_operator.services.ports import Clock, Cluster, Connections, Manifest, ObjectKey, WorkerAgents
from celery_operator.services.spec_errors import spec_error
from celery_operator.services.status import StatusKeeper, key_of
from celery_patterns.protocol import new_token

NOT_ACCEPTED_PERIOD: Final = timedelta(seconds=1)
"""What is missing heals within a second of appearing."""
REFUSED_PERIOD: Final = timedelta(seconds=5)
"""What Kubernetes refused once it will hardly take a moment later."""
APP_SECONDS: Final = 2.0
"""For how long a resolved application is used: pools look every second, and CeleryApps and Secrets seldom change."""
TOKEN_SECONDS: Final = 30.0
"""The same for the pool's own token."""
COUNTS_SECONDS: Final = 5.0
"""Counts alone are written this often: hundreds of busy pools would otherwise write without end."""
AT_ONCE: Final = 16
"""Pods that are annotated, drained or resumed at the same time."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    """What a pool runs by."""

    spec: WorkerPoolSpec
    app: ResolvedApp
    deployment: Manifest
    """As it should be, without replicas."""

    @property
    def manifest_hash(self) -> str:
        return str(self.deployment["metadata"]["annotations"][naming.ANNOTATION_MANIFEST_HASH])


@dataclass(slots=True)
class _Kept:
    """What is remembered of one pool. All of it can be lost."""

    uid: str
    plan: PoolMemory = field(default_factory=PoolMemory)
    accepted: _Accepted | None = None
    """The last spec that was accepted: it goes on while a changed one is not."""
    app: tuple[float, int, ResolvedApp] | None = None
    """When it was resolved, for which generation, and what it was."""
    token: tuple[float, str] | None = None
    counts_written_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Look:
    """One pool at one time."""

    manifest: Manifest
    identity: PoolIdentity
    kept: _Kept
    token: str | None
    left_over: bool = False
    """The token Secret is that of an earlier pool of this name, which Kubernetes has not removed yet."""
    foreign: bool = False
    """The token Secret is nobody's, or holds no token."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.identity.namespace, self.identity.name)

    @property
    def generation(self) -> int:
        return int(self.manifest["metadata"].get("generation", 1))

    @property
    def deployment_key(self) -> ObjectKey:
        return ObjectKey(self.identity.namespace, naming.deployment_name(self.identity.name))


class PoolReconciler:
    """Brings pools towards their specs.

    Args:
        cluster: The Kubernetes API.
        connections: Brokers by URL.
        agents: The agents inside workers.
        apps: Follows the pool's reference to its application.
        clock: Time.
        worker_image: Image of pools that name none themselves nor in their application.
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
    ) -> None:
        self._cluster = cluster
        self._connections = connections
        self._agents = agents
        self._apps = apps
        self._clock = clock
        self._worker_image = worker_image
        self._status = StatusKeeper(cluster, "CeleryWorkerPool")
        self._pools: dict[ObjectKey, _Kept] = {}

    async def reconcile(self, manifest: Manifest) -> timedelta:
        """Observe, plan, apply and report once; return when to look again.

        A wrong resource becomes a condition, an unreachable broker too. Raises ClusterError if Kubernetes does not
        answer.
        """
        if "deletionTimestamp" in manifest["metadata"]:
            return NOT_ACCEPTED_PERIOD
        look = await self._begin(self._status.newest(manifest))
        deployment = await self._deployment(look)
        if look.left_over or (deployment is not None and deployment.deleting):
            return SOON  # an earlier pool of this name, or its Deployment, is still being removed
        error = None
        try:
            look.kept.accepted = await self._accept(look, deployment)
        except SpecError as refused:
            error = refused
        accepted = look.kept.accepted if _is_ours(deployment, look) and not look.foreign else None
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
        self._pools.pop(key, None)
        self._status.forget(key)

    # -------------------------------------------------------------------------------------------------------- accept

    async def _begin(self, manifest: Manifest) -> _Look:
        key, uid = key_of(manifest), str(manifest["metadata"]["uid"])
        kept = self._pools.get(key)
        if kept is None or kept.uid != uid:
            kept = self._pools[key] = _Kept(uid)
        if kept.token is not None and self._clock.monotonic() - kept.token[0] < TOKEN_SECONDS:
            return _Look(manifest, PoolIdentity(*key, uid), kept, kept.token[1])
        kept.token = None
        secret = await self._cluster.get("Secret", ObjectKey(key.namespace, naming.token_secret_name(key.name)))
        if secret is None:
            return _Look(manifest, PoolIdentity(*key, uid), kept, None)
        owner, token = controlling_owner(secret), secret_text(secret, naming.TOKEN_KEY)
        if owner != uid or token is None:
            left_over = owner not in (None, uid)
            return _Look(manifest, PoolIdentity(*key, uid), kept, None, left_over=left_over, foreign=not left_over)
        kept.token = (self._clock.monotonic(), token)
        return _Look(manifest, PoolIdentity(*key, uid), kept, token)

    async def _accept(self, look: _Look, deployment: ObservedDeployment | None) -> _Accepted:
        """Return what the resource asks for. Raises SpecError if it is wrong or names what does not exist."""
        if not _is_ours(deployment, look):
            raise SpecError(
                Reason.INVALID_SPEC,
                f"there is a Deployment {look.deployment_key} of somebody else: rename the pool, or delete that",
            )
        if look.foreign:
            secret = ObjectKey(look.key.namespace, naming.token_secret_name(look.key.name))
            raise SpecError(
                Reason.INVALID_SPEC,
                f"there is a Secret {secret} that is not the pool's own: rename the pool, or delete that",
            )
        try:
            spec = CeleryWorkerPool.model_validate({"spec": look.manifest.get("spec")}).spec
        except ValidationError as error:
            raise spec_error(error) from None
        check_pool(spec)
        app = await self._resolve(look, spec)
        self._connections.broker(app.broker_url)
        manifest = worker_deployment(spec, app, look.identity, token=look.token or "", default_image=self._worker_image)
        return _Accepted(spec, app, manifest)

    async def _resolve(self, look: _Look, spec: WorkerPoolSpec) -> ResolvedApp:
        known, now = look.kept.app, self._clock.monotonic()
        if known is not None and known[1] == look.generation and now - known[0] < APP_SECONDS:
            return known[2]
        app = await self._apps.resolve(look.key.namespace, spec.app_ref, spec.app)
        look.kept.app = (now, look.generation, app)
        return app

    # ------------------------------------------------------------------------------------------------------- observe

    async def _deployment(self, look: _Look) -> ObservedDeployment | None:
        manifest = await self._cluster.get("Deployment", look.deployment_key)
        return None if manifest is None else observed_deployment(manifest)

    async def _observe(
        self, look: _Look, deployment: ObservedDeployment | None, accepted: _Accepted | None
    ) -> ObservedPool:
        (waiting, trouble), pods = await asyncio.gather(self._ask_broker(accepted), self._ask_workers(look, accepted))
        return ObservedPool(
            deployment=deployment,
            pods=pods,
            waiting=waiting,
            broker_trouble=trouble,
            has_token=look.token is not None,
        )

    async def _ask_broker(self, accepted: _Accepted | None) -> tuple[dict[str, int] | None, BrokerTrouble | None]:
        if accepted is None:
            return None, None
        url = accepted.app.broker_url
        try:
            broker = self._connections.broker(url)
            counts = await broker.waiting([queue.name for queue in accepted.spec.queues])
        except (DependencyError, SpecError) as error:
            return None, BrokerTrouble(error.reason, without_url(error.message, url))
        return dict(counts), None

    async def _ask_workers(self, look: _Look, accepted: _Accepted | None) -> tuple[ObservedPod, ...]:
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
        self, look: _Look, accepted: _Accepted, plan: Plan, error: SpecError | None
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

    async def _together(self, look: _Look, actions: Iterable[Action]) -> None:
        """Carry out actions on workers side by side; if some fail the others are done all the same."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(action: Action) -> None:
            async with turns:
                await self._on_worker(look, action)

        results = await asyncio.gather(*(one(action) for action in actions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _on_worker(self, look: _Look, action: Action) -> None:
        match action:
            case CreateTokenSecret():
                await self._cluster.create(token_secret(look.identity, new_token()))
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

    async def _annotate(self, look: _Look, pod: str, cost: str | None) -> None:
        key = ObjectKey(look.key.namespace, pod)
        await self._cluster.annotate_pod(key, {naming.ANNOTATION_DELETION_COST: cost})

    async def _carry_out(self, look: _Look, accepted: _Accepted, action: ApplyDeployment | ScaleDeployment) -> None:
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

    async def _tell(self, look: _Look, actions: Iterable[Action]) -> None:
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

    async def _event(self, look: _Look, reason: Reason, message: str) -> None:
        await self._status.record(look.manifest, "Normal", reason.value, message)

    # -------------------------------------------------------------------------------------------------------- report

    def _report(
        self, look: _Look, spec: WorkerPoolSpec | None, observed: ObservedPool, plan: Plan | None, verdict: Verdict
    ) -> WorkerPoolStatus:
        subject = Subject(look.key.name, look.generation, _previous(look.manifest))
        return pool_status(subject, spec, observed, plan, verdict, now=self._clock.now())

    async def _write(self, look: _Look, status: WorkerPoolStatus) -> bool:
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
    """Kubernetes refused to change the Deployment."""

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


def _is_ours(deployment: ObservedDeployment | None, look: _Look) -> bool:
    """Whether the Deployment of the pool's name may be written: a pool never takes over somebody else's."""
    return deployment is None or deployment.owner == look.identity.uid


def _previous(manifest: Manifest) -> WorkerPoolStatus | None:
    status: dict[str, Any] | None = manifest.get("status")
    if not status:
        return None
    try:
        return WorkerPoolStatus.model_validate(status)
    except ValidationError:
        return None
