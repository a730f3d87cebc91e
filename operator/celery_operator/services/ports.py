"""What services need from the world, as narrow protocols. Adapters, fakes and local mode satisfy them structurally.

Objects of the Kubernetes API are plain JSON values (``Manifest``): the shape is Kubernetes own contract, and local mode
reads the same manifests that a cluster would get. Every method is bounded in time by its adapter. Errors are those
of ``domain.errors``; absence is None, never an exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from typing_extensions import override

from celery_operator.domain.messages import Claim, TaskMessage, TaskResult
from celery_patterns.protocol import Announcement, WorkerState

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


class ObjectKey(NamedTuple):
    """Where an object is."""

    namespace: str
    name: str

    @override
    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One Kubernetes Event to write. Repeats are aggregated by the adapter (count, series)."""

    kind: str
    key: ObjectKey
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Cluster(Protocol):
    """The Kubernetes API, as far as services use it. Kinds are named as in manifests (``Deployment``)."""

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """Return an object; None if there is none."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or update an object by server-side apply as field manager ``celery-operator`` (forced). Idempotent."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object. Raises Conflict if it exists."""
        ...

    async def delete(self, kind: str, key: ObjectKey) -> None:
        """Delete an object (background propagation); nothing happens if it is gone."""
        ...

    async def scale(self, key: ObjectKey, replicas: int, *, resource_version: str) -> Manifest:
        """Set a Deployment's replicas if it still has this resourceVersion. Raises Conflict, Gone."""
        ...

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """Return the pods with all these labels, those being deleted included, sorted by name."""
        ...

    async def annotate_pod(self, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """Set (or with None remove) a pod's annotations; nothing happens if it is gone."""
        ...

    async def write_status(
        self, kind: str, key: ObjectKey, status: Mapping[str, Any], *, resource_version: str
    ) -> Manifest:
        """Replace the status subresource of one of our kinds if it has this resourceVersion. Raises Conflict, Gone."""
        ...

    async def record(self, event: EventRecord) -> None:
        """Write an Event. Never raises: an Event is a courtesy; what cannot be written is logged."""
        ...


class Broker(Protocol):
    """One Celery broker."""

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Return the messages that wait in each queue, over all priorities; 0 for a queue that does not exist.

        Raises BrokerError if the broker cannot be asked: what is unknown is never 0.
        """
        ...

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        """Publish in order; return when the broker has all.

        Raises BrokerError; then some may have been published, which is harmless: workers run an attempt once.
        """
        ...

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """Ask all workers to forget tasks that they have not begun. Best effort; raises BrokerError."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


class ResultBackend(Protocol):
    """One Celery result backend that pushes (Redis)."""

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, TaskResult]:
        """Return the stored results; absent ids have none. Raises ResultBackendError."""
        ...

    async def claims(self, task_ids: Sequence[str]) -> Mapping[str, Claim]:
        """Return what workers have claimed; absent ids were never begun. Raises ResultBackendError."""
        ...

    async def abandon(self, task_ids: Sequence[str]) -> frozenset[str]:
        """Mark attempts whose claim's lease is over (or that were never claimed) so that they can never begin any more.

        Returns those that now cannot run; an id that is missing in the answer is running or done. Atomic, by the
        server's clock. Raises ResultBackendError.
        """
        ...

    def announcements(self) -> AsyncIterator[tuple[Announcement, ...]]:
        """Yield what workers announce, in batches.

        After every (re)connection an empty batch comes first: whoever waits should look for what was missed. Never ends
        by itself and never raises for a lost connection; it retries.
        """
        ...

    async def check(self) -> None:
        """Return if the backend answers. Raises ResultBackendError with the reason."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Connections(Protocol):
    """Brokers and result backends by URL; the same URL gives the same, shared object."""

    def broker(self, url: str) -> Broker:
        """Return the broker. Raises SpecError(UNSUPPORTED_BROKER) if the URL cannot be parsed or is not served."""
        ...

    def result_backend(self, url: str) -> ResultBackend:
        """Return the backend. Raises SpecError(UNSUPPORTED_BACKEND)."""
        ...


class WorkerAgents(Protocol):
    """The agents inside workers. None: no (usable) answer within the bound, whatever the cause."""

    async def state(self, address: str) -> WorkerState | None:
        """Ask ``host:port`` what the worker holds."""
        ...

    async def drain(self, address: str, token: str) -> WorkerState | None:
        """Tell the worker to take no more."""
        ...

    async def resume(self, address: str, token: str) -> WorkerState | None:
        """Tell the worker to take tasks again."""
        ...


class Clock(Protocol):
    """Time, for those who pass it on."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards and go on while the process is stopped (CLOCK_BOOTTIME)."""
        ...


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """The workers of a pool that answer."""

    workers: int
    consuming: int
    """Those of them that have not been told to take no more."""
    slots: int


class Metrics(Protocol):
    """What the operator tells about itself. Calls cost next to nothing and never raise."""

    def reconciled(self, kind: str, seconds: float, *, failed: bool) -> None:
        """Note one reconcile of a kind."""
        ...

    def published(self, tasks: int) -> None:
        """Note so many published messages."""
        ...

    def pool(
        self,
        key: ObjectKey,
        *,
        desired_replicas: int,
        waiting: Mapping[str, int | None],
        counts: PoolCounts | None,
    ) -> None:
        """Note what a pool is meant to have and has, and what waits in its queues (None: unknown)."""
        ...

    def forget_pool(self, key: ObjectKey) -> None:
        """Remove a deleted pool's series."""
        ...


class NoMetrics:
    """The port ``Metrics`` where nobody reads them: local mode."""

    def reconciled(self, kind: str, seconds: float, *, failed: bool) -> None:
        """See the port."""

    def published(self, tasks: int) -> None:
        """See the port."""

    def pool(
        self,
        key: ObjectKey,
        *,
        desired_replicas: int,
        waiting: Mapping[str, int | None],
        counts: PoolCounts | None,
    ) -> None:
        """See the port."""

    def forget_pool(self, key: ObjectKey) -> None:
        """See the port."""
