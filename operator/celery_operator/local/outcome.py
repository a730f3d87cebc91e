"""How workflows and pools stand, read from their status: for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery_operator.api.conditions import ConditionType
from celery_operator.services.ports import Manifest


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended, or how far it came."""

    namespace: str
    name: str
    succeeded: bool
    reason: str
    message: str
    status: Mapping[str, Any]
    ended: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: outputs by name, failures, steps with their states."""
        status = self.status
        return {
            "namespace": self.namespace,
            "name": self.name,
            "ended": self.ended,
            "succeeded": self.succeeded,
            "reason": self.reason,
            "message": self.message,
            "progress": status.get("progress", ""),
            "seconds": seconds_between(status.get("startTime"), status.get("completionTime")),
            "outputs": {o["name"]: o.get("value", o.get("reference")) for o in status.get("outputs", ())},
            "steps": {s["name"]: s["state"] for s in status.get("steps", ())},
            "failures": list(status.get("failures", ())),
        }


def condition(manifest: Manifest, kind: ConditionType) -> Mapping[str, str]:
    """Return a condition; an empty mapping if it is not set."""
    found = (manifest.get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == kind), {})


def outcome_of(manifest: Manifest) -> Outcome | None:
    """Return how a workflow ended; None if it has not.

    One that is not accepted has ended, too: on this machine nothing will appear that it lacks.
    """
    metadata = manifest["metadata"]
    succeeded = condition(manifest, ConditionType.SUCCEEDED)
    accepted = condition(manifest, ConditionType.ACCEPTED)
    said = succeeded if succeeded.get("status") in ("True", "False") else accepted
    if said is accepted and accepted.get("status") != "False":
        return None
    return Outcome(
        namespace=metadata["namespace"],
        name=metadata["name"],
        succeeded=said.get("status") == "True",
        reason=said.get("reason", ""),
        message=said.get("message", ""),
        status=manifest.get("status") or {},
    )


def unfinished(manifest: Manifest) -> Outcome:
    """Return how far a workflow came that has not ended, and what keeps it, if that is known."""
    metadata = manifest["metadata"]
    stalled, succeeded = condition(manifest, ConditionType.STALLED), condition(manifest, ConditionType.SUCCEEDED)
    said = stalled if stalled.get("status") == "True" else succeeded
    return Outcome(
        namespace=metadata["namespace"],
        name=metadata["name"],
        succeeded=False,
        reason=said.get("reason", "Running"),
        message=said.get("message", ""),
        status=manifest.get("status") or {},
        ended=False,
    )


def stalled_for(manifest: Manifest, now: datetime) -> timedelta | None:
    """Return for how long a resource has been Stalled; None if it is not."""
    stalled = condition(manifest, ConditionType.STALLED)
    since = parse_time(stalled.get("lastTransitionTime"))
    return now - since if stalled.get("status") == "True" and since is not None else None


def seconds_between(begin: str | None, end: str | None) -> float | None:
    """Return the seconds between two API times; None if one is missing."""
    first, last = parse_time(begin), parse_time(end)
    return None if first is None or last is None else (last - first).total_seconds()


def parse_time(text: str | None) -> datetime | None:
    """Return an API time as an aware datetime; None for none."""
    return None if not text else datetime.fromisoformat(text)
