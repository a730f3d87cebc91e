"""Whether a pool is accepted: what it asks for, what it names, and what it owns already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import CeleryWorkerPool, WorkerPoolSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools import naming
from celery_operator.domain.pools.manifests import PoolIdentity, worker_deployment
from celery_operator.domain.pools.observation import ObservedDeployment, controlling_owner
from celery_operator.domain.pools.plan import PoolMemory
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_operator.domain.pools.validation import check_pool
from celery_operator.services.apps import AppResolver, secret_text
from celery_operator.services.ports import Clock, Cluster, Connections, Manifest, ObjectKey
from celery_operator.services.spec_errors import spec_error
from celery_operator.services.status import key_of

APP_SECONDS: Final = 2.0
"""For how long a resolved application is used: pools look every second, and CeleryApps and Secrets seldom change."""
TOKEN_SECONDS: Final = 30.0
"""The same for the pool's own token."""


@dataclass(frozen=True, slots=True)
class AcceptedPool:
    """What a pool runs by."""

    spec: WorkerPoolSpec
    app: ResolvedApp
    deployment: Manifest
    """As it should be, without replicas."""
    generation: int
    token: str | None
    """With the app: what it was made of. While all of this is the same it is not made again."""

    @property
    def manifest_hash(self) -> str:
        """The hash by which a Deployment that was applied from this is recognised."""
        return str(self.deployment["metadata"]["annotations"][naming.ANNOTATION_MANIFEST_HASH])


@dataclass(slots=True)
class KeptPool:
    """What is remembered of one pool. All of it can be lost."""

    uid: str
    plan: PoolMemory = field(default_factory=PoolMemory)
    accepted: AcceptedPool | None = None
    """The last spec that was accepted: it goes on while a changed one is not."""
    app: tuple[float, int, ResolvedApp] | None = None
    """When it was resolved, for which generation, and what it was."""
    token: tuple[float, str] | None = None
    counts_written_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class PoolLook:
    """One pool at one time."""

    manifest: Manifest
    identity: PoolIdentity
    kept: KeptPool
    token: str | None
    left_over: bool = False
    """The token Secret is that of an earlier pool of this name, which Kubernetes has not removed yet."""
    foreign: bool = False
    """The token Secret is nobody's, or holds no token."""

    @property
    def key(self) -> ObjectKey:
        """Where the pool is."""
        return ObjectKey(self.identity.namespace, self.identity.name)

    @property
    def generation(self) -> int:
        """The generation of its spec."""
        return int(self.manifest["metadata"].get("generation", 1))

    @property
    def deployment_key(self) -> ObjectKey:
        """Where its Deployment is, or will be."""
        return ObjectKey(self.identity.namespace, naming.deployment_name(self.identity.name))


class PoolAcceptance:
    """Follows what pools name, and remembers what they run by.

    Args:
        cluster: The Kubernetes API.
        connections: Says whether a broker is served.
        apps: Follows the pool's reference to its application.
        clock: Time.
        worker_image: Image of pools that name none themselves nor in their application.
    """

    def __init__(
        self, *, cluster: Cluster, connections: Connections, apps: AppResolver, clock: Clock, worker_image: str
    ) -> None:
        self._cluster = cluster
        self._connections = connections
        self._apps = apps
        self._clock = clock
        self._worker_image = worker_image
        self._pools: dict[ObjectKey, KeptPool] = {}

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered about a pool."""
        self._pools.pop(key, None)

    async def begin(self, manifest: Manifest) -> PoolLook:
        """Return what is known of a pool before anything is observed, its token included. Raises ClusterError."""
        key, uid = key_of(manifest), str(manifest["metadata"]["uid"])
        kept = self._pools.get(key)
        if kept is None or kept.uid != uid:
            kept = self._pools[key] = KeptPool(uid)
        if kept.token is not None and self._clock.monotonic() - kept.token[0] < TOKEN_SECONDS:
            return PoolLook(manifest, PoolIdentity(*key, uid), kept, kept.token[1])
        kept.token = None
        secret = await self._cluster.get("Secret", ObjectKey(key.namespace, naming.token_secret_name(key.name)))
        if secret is None:
            return PoolLook(manifest, PoolIdentity(*key, uid), kept, None)
        owner, token = controlling_owner(secret), secret_text(secret, naming.TOKEN_KEY)
        if owner != uid or token is None:
            left_over = owner not in (None, uid)
            return PoolLook(manifest, PoolIdentity(*key, uid), kept, None, left_over=left_over, foreign=not left_over)
        kept.token = (self._clock.monotonic(), token)
        return PoolLook(manifest, PoolIdentity(*key, uid), kept, token)

    async def accept(self, look: PoolLook, deployment: ObservedDeployment | None) -> AcceptedPool:
        """Return what the resource asks for. Raises SpecError if it is wrong or names what does not exist."""
        if not is_ours(deployment, look):
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
        known = look.kept.accepted
        spec = known.spec if known is not None and known.generation == look.generation else _parse(look.manifest)
        app = await self._resolve(look, spec)
        if known is not None and (known.generation, known.app, known.token) == (look.generation, app, look.token):
            return known
        self._connections.broker(app.broker_url)
        manifest = worker_deployment(spec, app, look.identity, token=look.token or "", default_image=self._worker_image)
        return AcceptedPool(spec, app, manifest, look.generation, look.token)

    async def _resolve(self, look: PoolLook, spec: WorkerPoolSpec) -> ResolvedApp:
        known, now = look.kept.app, self._clock.monotonic()
        if known is not None and known[1] == look.generation and now - known[0] < APP_SECONDS:
            return known[2]
        app = await self._apps.resolve(look.key.namespace, spec.app_ref, spec.app)
        look.kept.app = (now, look.generation, app)
        return app


def _parse(manifest: Manifest) -> WorkerPoolSpec:
    try:
        spec = CeleryWorkerPool.model_validate({"spec": manifest.get("spec")}).spec
    except ValidationError as error:
        raise spec_error(error) from None
    check_pool(spec)
    return spec


def is_ours(deployment: ObservedDeployment | None, look: PoolLook) -> bool:
    """Whether the Deployment of the pool's name may be written: a pool never takes over somebody else's."""
    return deployment is None or deployment.owner == look.identity.uid
