from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.adapters.lease import LeaseTimes
from celery_operator.adapters.lease_decision import Acquire, LeaseRecord, Renew, Sighting, Wait, decide

HELD = LeaseRecord(holder="other", duration_seconds=15.0, transitions=3, renewed="t1", version="7")
MINE = LeaseRecord(holder="me", duration_seconds=15.0, transitions=3, renewed="t1", version="7")
FREE = LeaseRecord(holder="", duration_seconds=1.0, transitions=3, renewed="t1", version="7")


@pytest.mark.parametrize(
    ("record", "seen_for", "decision"),
    [
        (None, 0.0, Acquire(transitions=0, version=None)),
        (FREE, 0.0, Acquire(transitions=4, version="7")),
        (HELD, 0.0, Wait("other", 15.0)),
        (HELD, 14.5, Wait("other", 0.5)),
        (HELD, 15.0, Acquire(transitions=4, version="7")),
        (MINE, 0.0, Renew(MINE)),
        (MINE, 60.0, Renew(MINE)),
    ],
    ids=["missing", "given back", "just seen", "nearly over", "over", "mine", "mine and late"],
)
def test_what_a_candidate_may_do(record: LeaseRecord | None, seen_for: float, decision: object) -> None:
    assert decide(Sighting(record, since=100.0), "me", 100.0 + seen_for) == decision


def test_a_record_counts_from_when_it_was_first_seen_unchanged() -> None:
    first = Sighting(None, 0.0).updated(HELD, 10.0)
    assert first.updated(HELD, 20.0) == Sighting(HELD, 10.0)
    renewed = LeaseRecord(holder="other", duration_seconds=15.0, transitions=3, renewed="t2", version="8")
    assert first.updated(renewed, 20.0) == Sighting(renewed, 20.0)


@given(st.lists(st.floats(0.01, 14.9), min_size=1, max_size=30))
def test_nobody_takes_a_lease_that_is_renewed_in_time(pauses: list[float]) -> None:
    """However the renewals are spread, as long as each comes within the duration."""
    now, sighting = 0.0, Sighting(None, 0.0)
    for number, pause in enumerate(pauses):
        record = LeaseRecord("other", 15.0, 0, renewed=f"t{number}", version=str(number))
        sighting = sighting.updated(record, now)
        now += pause
        assert isinstance(decide(sighting, "me", now), Wait)


def test_a_lease_is_read_from_its_manifest_and_may_be_empty() -> None:
    metadata = {"resourceVersion": "9"}
    spec = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 2,
        "renewTime": "r",
        "acquireTime": "q",
    }
    assert LeaseRecord.from_manifest({"metadata": metadata, "spec": spec}) == LeaseRecord("a", 15.0, 2, "r", "9", "q")
    assert LeaseRecord.from_manifest({"metadata": metadata}) == LeaseRecord("", 0.0, 0, "", "9")


@pytest.mark.parametrize(("duration", "deadline", "retry"), [(8, 8, 2), (15, 2, 2), (15, 8, 0)])
def test_times_that_would_allow_two_leaders_are_refused(duration: float, deadline: float, retry: float) -> None:
    with pytest.raises(ValueError, match="retry < deadline < duration"):
        LeaseTimes(duration=duration, deadline=deadline, retry=retry)


def test_other_durations_keep_the_proportions() -> None:
    assert LeaseTimes.of_duration(15.0) == LeaseTimes()
    assert LeaseTimes.of_duration(30.0) == LeaseTimes(duration=30.0, deadline=16.0, retry=4.0, look=1.0)
    assert LeaseTimes.of_duration(3.0) == LeaseTimes(duration=3.0, deadline=1.6, retry=0.4, look=0.2)
