"""Conditions keep the time of their last transition, and bad news is told once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from celery_operator.api.conditions import Condition, ConditionType, Reason, Status
from celery_operator.domain.conditions import ConditionClaim, bad_news, set_conditions, shorten

NOON = datetime(2026, 11, 22, 12, 0, 0, 900_000, tzinfo=UTC)
BEFORE = "2026-11-22T11:00:00Z"


def condition(kind: ConditionType, status: Status, reason: Reason, message: str = "", since: str = BEFORE) -> Condition:
    return Condition(type=kind.value, status=status, reason=reason.value, message=message, last_transition_time=since)


def test_a_new_condition_begins_now_in_utc_with_the_observed_generation() -> None:
    claim = ConditionClaim(ConditionType.READY, "Unknown", Reason.NOT_CHECKED, "Not looked at yet.")
    assert set_conditions([], [claim], generation=3, now=NOON) == [
        Condition(
            type="Ready",
            status="Unknown",
            reason="NotChecked",
            message="Not looked at yet.",
            last_transition_time="2026-11-22T12:00:00Z",
            observed_generation=3,
        )
    ]


@pytest.mark.parametrize(("status", "since"), [("True", BEFORE), ("False", "2026-11-22T12:00:00Z")])
def test_the_time_of_the_transition_moves_only_with_the_status(status: Status, since: str) -> None:
    previous = [condition(ConditionType.READY, "True", Reason.MINIMUM_REPLICAS_READY, "old words")]
    claim = ConditionClaim(ConditionType.READY, status, Reason.REPLICAS_NOT_READY, "new words")
    [current] = set_conditions(previous, [claim], generation=1, now=NOON)
    assert (current.last_transition_time, current.reason, current.message) == (since, "ReplicasNotReady", "new words")


def test_conditions_that_nobody_speaks_about_are_kept_after_the_others() -> None:
    kept = condition(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED)
    claim = ConditionClaim(ConditionType.READY, "True", Reason.MINIMUM_REPLICAS_READY)
    conditions = set_conditions([kept], [claim], generation=1, now=NOON)
    assert [each.type for each in conditions] == ["Ready", "Suspended"]
    assert conditions[1] == kept


def test_a_message_is_cut_to_what_the_schema_allows() -> None:
    claim = ConditionClaim(ConditionType.READY, "False", Reason.PODS_REFUSED, "x" * 5000)
    [current] = set_conditions([], [claim], generation=1, now=NOON)
    assert current.message == "x" * 1023 + "…"
    assert shorten("x" * 1024) == "x" * 1024


@pytest.mark.parametrize(
    ("previous", "current", "news"),
    [
        ([], condition(ConditionType.ACCEPTED, "False", Reason.INVALID_SPEC), True),
        ([], condition(ConditionType.ACCEPTED, "True", Reason.ACCEPTED), False),
        ([], condition(ConditionType.READY, "False", Reason.NOT_ACCEPTED), False),
        ([], condition(ConditionType.READY, "False", Reason.REPLICAS_NOT_READY), False),
        ([], condition(ConditionType.READY, "False", Reason.PODS_REFUSED), True),
        ([], condition(ConditionType.SCALING_ACTIVE, "False", Reason.FIXED_REPLICAS), False),
        ([], condition(ConditionType.STALLED, "True", Reason.NO_WORKERS_FOR_QUEUE), True),
        ([], condition(ConditionType.RECONCILING, "True", Reason.PROGRESSING), False),
        (
            [condition(ConditionType.READY, "True", Reason.MINIMUM_REPLICAS_READY)],
            condition(ConditionType.READY, "False", Reason.REPLICAS_NOT_READY),
            True,
        ),
        (
            [condition(ConditionType.ACCEPTED, "False", Reason.APP_NOT_FOUND, "old words")],
            condition(ConditionType.ACCEPTED, "False", Reason.APP_NOT_FOUND, "new words"),
            False,
        ),
        (
            [condition(ConditionType.ACCEPTED, "False", Reason.APP_NOT_FOUND)],
            condition(ConditionType.ACCEPTED, "False", Reason.SECRET_NOT_FOUND),
            True,
        ),
    ],
)
def test_only_a_transition_to_bad_news_is_told(previous: list[Condition], current: Condition, news: bool) -> None:  # noqa: FBT001
    assert bad_news(previous, [current]) == ((current,) if news else ())
