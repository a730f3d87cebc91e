"""Leader election by a Lease: two replicas may run, one acts.

``kubernetes.aio.leaderelection`` is not used: it judges by wall clocks, keeps its record in an annotation, counts no
transitions, does not give the lease back, and returns quietly when it is lost, while the program goes on.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC

import structlog

from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.kubernetes.resources import RESOURCES
from celery_operator.adapters.lease_decision import Acquire, LeaseRecord, Renew, Sighting, Wait, decide
from celery_operator.adapters.watchdog import Watchdog
from celery_operator.domain.errors import CeleryOperatorError, ClusterError, Conflict, Gone
from celery_operator.services.ports import Clock, Manifest, ObjectKey


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The times of an election, in seconds: retry < deadline < duration."""

    duration: float = 15.0
    """A lease that is not renewed for this long is free for others."""
    deadline: float = 8.0
    """A leader that has not renewed for this long ends; the rest of the duration is the margin for slow clocks."""
    retry: float = 2.0
    """Between renewals."""
    look: float = 1.0
    """Between looks of one that waits: a lease that was given back is taken that soon."""

    @classmethod
    def of_duration(cls, seconds: float) -> LeaseTimes:
        """Return times in the default's proportions for another duration."""
        default = cls()
        share = seconds / default.duration
        return cls(seconds, default.deadline * share, default.retry * share, min(default.look, default.look * share))

    def __post_init__(self) -> None:
        """Raise ValueError if the times would allow two leaders."""
        if not 0 < self.retry < self.deadline < self.duration:
            raise ValueError(f"a lease needs 0 < retry < deadline < duration, got {self}")


LOOKS_AT_ONCE = 3
"""If the Lease changes between looking and writing (a lost answer, another candidate, somebody's kubectl)."""


class LeadershipLost(CeleryOperatorError):  # noqa: N818 - the fact itself
    """Another process leads; this one must not act any more."""


_log = structlog.get_logger(__name__)


class LeaderElection:
    """One candidate.

    Use: ``await acquire()``, then run ``hold()`` beside the work and end with it; in the end ``await release()``.

    Args:
        api: The connection.
        key: Of the Lease; it is created if need be.
        identity: Unique for each process: the pod's name and something random.
        clock: Only its monotonic time decides.
        watchdog: Ends the process if renewing stops working, even while the event loop is stuck.
        times: See LeaseTimes.
    """

    def __init__(
        self,
        api: ApiConnection,
        key: ObjectKey,
        identity: str,
        *,
        clock: Clock,
        watchdog: Watchdog | None = None,
        times: LeaseTimes | None = None,
    ) -> None:
        self._api = api
        self._key = key
        self._identity = identity
        self._clock = clock
        self._times = times or LeaseTimes()
        self._watchdog = watchdog or Watchdog(self._times.deadline, clock.monotonic)
        self._sighting = Sighting(None, clock.monotonic())
        self._leads = False
        self._seen_holder = ""

    @property
    def leads(self) -> bool:
        """Whether this process leads now and has renewed in time: ask before what only the leader may do."""
        return self._leads and self._watchdog.in_time

    @property
    def transitions(self) -> int:
        """How often the lease has changed hands, as last seen."""
        return self._sighting.record.transitions if self._sighting.record is not None else 0

    async def acquire(self) -> None:
        """Wait until this process leads. Does not end by itself; errors of the API are logged and outlasted."""
        while True:
            try:
                wait = await self._step()
            except ClusterError as error:
                _log.warning("lease not readable", lease=str(self._key), error=error.message)
                wait = None
            if self._leads:
                _log.info("leading", lease=str(self._key), identity=self._identity, transitions=self.transitions)
                return
            if wait is not None and wait.holder != self._seen_holder:
                self._seen_holder = wait.holder
                _log.info("waiting for the leader to end", lease=str(self._key), leader=wait.holder)
            await asyncio.sleep(self._times.look)

    async def hold(self) -> None:
        """Renew until cancelled. Raises LeadershipLost as soon as another leads or the deadline has passed.

        What this cannot see, since the event loop is stuck or the process was stopped, the watchdog does.
        """
        while True:
            await asyncio.sleep(self._times.retry)
            if not self._watchdog.in_time:
                self._lose(f"the lease {self._key} was not renewed for {self._times.deadline:g} s")
            try:
                async with asyncio.timeout(self._times.deadline):  # wait_for may swallow a cancellation before 3.12
                    await self._step()
            except (ClusterError, TimeoutError) as error:
                _log.warning("lease not renewed", lease=str(self._key), error=str(error) or type(error).__name__)
                continue
            if not self._leads:
                holder = self._sighting.record.holder if self._sighting.record is not None else ""
                self._lose(f"the lease {self._key} is held by {holder or 'nobody'}")

    def _lose(self, message: str) -> None:
        self._leads = False
        raise LeadershipLost(message)

    async def release(self) -> None:
        """Give the lease back, so that another takes it at once. Call it when nothing more is done as a leader."""
        self._watchdog.stop()
        record = self._sighting.record
        if not self._leads or record is None:
            return
        self._leads = False
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._now()}
        try:
            async with asyncio.timeout(self._times.deadline):
                await self._write(spec, record.transitions, record.version)
            _log.info("lease given back", lease=str(self._key))
        except (ClusterError, TimeoutError) as error:
            _log.warning("lease not given back", lease=str(self._key), error=str(error) or type(error).__name__)

    async def _step(self) -> Wait | None:
        """Look, decide, write; afterwards ``_leads`` is right. Returns the wait if another leads."""
        for _ in range(LOOKS_AT_ONCE):
            self._see(await self._read())
            asked_at = self._clock.monotonic()
            decision = decide(self._sighting, self._identity, asked_at)
            if isinstance(decision, Wait):
                self._leads = False
                return decision
            try:
                written = await self._take(decision)
            except (Conflict, Gone):
                continue  # somebody was faster, or the Lease was deleted: look again
            self._see(LeaseRecord.from_manifest(written))
            self._leads = True
            self._watchdog.renewed(asked_at)
            return None
        raise Conflict(f"the lease {self._key} changed during each of {LOOKS_AT_ONCE} attempts to write it")

    def _see(self, record: LeaseRecord | None) -> None:
        self._sighting = self._sighting.updated(record, self._clock.monotonic())

    async def _read(self) -> LeaseRecord | None:
        try:
            return LeaseRecord.from_manifest(await self._api.request("GET", RESOURCES["Lease"].path(self._key)))
        except Gone:
            return None

    async def _take(self, decision: Acquire | Renew) -> Manifest:
        now = self._now()
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._times.duration),
            "renewTime": now,
        }
        if isinstance(decision, Acquire):
            return await self._write({**spec, "acquireTime": now}, decision.transitions, decision.version)
        record = decision.record
        acquired = {"acquireTime": record.acquired} if record.acquired else {}
        return await self._write({**spec, **acquired}, record.transitions, record.version)

    async def _write(self, spec: Manifest, transitions: int, version: str | None) -> Manifest:
        """Replace the Lease at this version, or create it. Raises Conflict, Gone, ClusterError."""
        resource = RESOURCES["Lease"]
        metadata: Manifest = {"name": self._key.name, "namespace": self._key.namespace}
        manifest: Manifest = {
            "apiVersion": resource.api_version,
            "kind": "Lease",
            "metadata": metadata,
            "spec": {**spec, "leaseTransitions": transitions},
        }
        if version is None:
            path = resource.collection(self._key.namespace)
            return await self._api.request("POST", path, body=manifest, idempotent=False)
        metadata["resourceVersion"] = version
        return await self._api.request("PUT", resource.path(self._key), body=manifest)

    def _now(self) -> str:
        return self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
