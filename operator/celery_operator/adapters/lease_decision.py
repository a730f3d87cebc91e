"""Who leads, decided: from a Lease as it was read, what may be done now. Pure; all times are this process's own.

Clocks of different machines are never compared. A lease is over when its record has not changed for its duration by
the observer's own clock, counted from when the observer first saw this record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says."""

    holder: str
    """Identity of the leader; empty: nobody leads."""
    duration_seconds: float
    transitions: int
    renewed: str
    """renewTime as it stands there; only compared for being the same."""
    version: str
    """metadata.resourceVersion: a write fails if it is not the current one."""
    acquired: str = ""
    """acquireTime as it stands there."""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> LeaseRecord:
        """Read a Lease; what is missing counts as a lease that nobody holds."""
        spec = manifest.get("spec") or {}
        return cls(
            holder=str(spec.get("holderIdentity") or ""),
            duration_seconds=float(spec.get("leaseDurationSeconds") or 0),
            transitions=int(spec.get("leaseTransitions") or 0),
            renewed=str(spec.get("renewTime") or ""),
            version=str(manifest["metadata"]["resourceVersion"]),
            acquired=str(spec.get("acquireTime") or ""),
        )


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record, and since when (monotonic seconds) this process has seen it unchanged."""

    record: LeaseRecord | None
    since: float

    def updated(self, record: LeaseRecord | None, now: float) -> Sighting:
        """Return the sighting after the Lease was read again at ``now``."""
        return self if record == self.record else Sighting(record, now)


@dataclass(frozen=True, slots=True)
class Acquire:
    """Nobody leads (any more): write this identity into the Lease."""

    transitions: int
    version: str | None
    """None: the Lease has to be created."""


@dataclass(frozen=True, slots=True)
class Renew:
    """This process leads: write the new time."""

    record: LeaseRecord


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else leads."""

    holder: str
    seconds: float
    """Until the lease would be over if it were not renewed."""


def decide(sighting: Sighting, identity: str, now: float) -> Acquire | Renew | Wait:
    """Return what ``identity`` may do at ``now`` (monotonic seconds).

    A record that names this very identity is renewed even if its time is over: nobody has taken it meanwhile, and the
    write fails if somebody does so first. Identities are unique for each process.
    """
    record = sighting.record
    if record is None:
        return Acquire(transitions=0, version=None)
    if record.holder == identity:
        return Renew(record)
    left = sighting.since + record.duration_seconds - now
    if record.holder and left > 0:
        return Wait(record.holder, left)
    return Acquire(transitions=record.transitions + 1, version=record.version)
