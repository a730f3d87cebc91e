"""Conditions as Kubernetes means them: the time of a transition is kept for as long as the status does not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from celery_operator.api.conditions import Condition, ConditionType, Reason, Status

MESSAGE_LENGTH: Final = 1024
"""Longest message of a condition: the bound of ``Condition.message`` in the schema."""

_WARN_ON: Final[dict[str, Status]] = {
    ConditionType.ACCEPTED: "False",
    ConditionType.BROKER_REACHABLE: "False",
    ConditionType.RESULT_BACKEND_REACHABLE: "False",
    ConditionType.READY: "False",
    ConditionType.STALLED: "True",
    ConditionType.SUCCEEDED: "False",
    ConditionType.DRAIN_SUPPORTED: "False",
    ConditionType.SCALING_ACTIVE: "False",
}
"""The status that is bad news, by type; types that are missing here are neither good nor bad."""

_NO_NEWS: Final = frozenset({Reason.NOT_ACCEPTED, Reason.FIXED_REPLICAS})
"""Reasons that only repeat another condition, or that the user asked for."""


@dataclass(frozen=True, slots=True)
class ConditionClaim:
    """What one condition should say, without the times."""

    type: ConditionType
    status: Status
    reason: Reason
    message: str = ""


def set_conditions(
    previous: Sequence[Condition], wanted: Sequence[ConditionClaim], *, generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions to write: the wanted ones in their order, then the previous ones nobody speaks about.

    ``lastTransitionTime`` becomes ``now`` where the status is another than before, and stays otherwise, even if reason
    or message differ. A message that is too long is cut.
    """
    before = {condition.type: condition for condition in previous}
    claimed = [
        Condition(
            type=claim.type.value,
            status=claim.status,
            reason=claim.reason.value,
            message=shorten(claim.message),
            last_transition_time=_since(before.get(claim.type.value), claim.status, now),
            observed_generation=generation,
        )
        for claim in wanted
    ]
    types = {condition.type for condition in claimed}
    return claimed + [condition for condition in previous if condition.type not in types]


def _since(previous: Condition | None, status: Status, now: datetime) -> str:
    if previous is not None and previous.status == status:
        return previous.last_transition_time
    return rfc3339(now)


def rfc3339(moment: datetime) -> str:
    """Return an aware moment as Kubernetes writes it: UTC, whole seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shorten(message: str, length: int = MESSAGE_LENGTH) -> str:
    """Return the message, cut to at most ``length`` characters with an ellipsis as the last one."""
    return message if len(message) <= length else message[: length - 1] + "…"


def bad_news(previous: Sequence[Condition], conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions that have become negative, or negative for another reason: one Warning event each.

    A resource whose workers merely have not started yet is no news: ``Ready=False/ReplicasNotReady`` counts only where
    Ready was True before.
    """
    before = {condition.type: condition for condition in previous}
    return tuple(condition for condition in conditions if _is_bad_news(before.get(condition.type), condition))


def _is_bad_news(before: Condition | None, condition: Condition) -> bool:
    if _WARN_ON.get(condition.type) != condition.status or condition.reason in _NO_NEWS:
        return False
    if condition.reason == Reason.REPLICAS_NOT_READY:
        return before is not None and before.status == "True"
    return before is None or (before.status, before.reason) != (condition.status, condition.reason)
