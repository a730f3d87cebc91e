"""Rate limits with real workers and real time."""

from __future__ import annotations

import itertools

import pytest
from celery.exceptions import TaskRevokedError

from celery_patterns.tasks.errors import RateExceeded, TooLongDeferred
from patterns.tasks import shop

pytestmark = [pytest.mark.every_redis, pytest.mark.usefixtures("worker")]


def test_no_window_has_more_runs_than_rate_and_burst(key: str) -> None:
    """20/s with a burst of 5: between the first and the last of n calls lies the time of n - 5 at least."""
    results = [shop.call_api.delay(key) for _ in range(40)]
    times = sorted(result.get(timeout=60) for result in results)
    late = 0.25
    """Seconds that a call may look at its clock after it was let through; the exact instants are the model's matter."""
    early = [
        (first, last)
        for first, last in itertools.combinations(range(40), 2)
        if times[last] - times[first] < (last - first - 5) / 20 - late
    ]
    assert early == []


def test_over_the_limit_a_call_is_dropped_or_fails(key: str) -> None:
    assert shop.call_rarely.delay(key).get(timeout=60) == key
    with pytest.raises(TaskRevokedError, match="the rate limit 1/m is used up"):
        shop.call_rarely.delay(key).get(timeout=60)
    assert shop.call_strictly.delay(key).get(timeout=60) == key
    with pytest.raises(RateExceeded, match="the rate limit 1/m is used up"):
        shop.call_strictly.delay(key).get(timeout=60)


def test_a_call_that_would_wait_too_long_fails(key: str) -> None:
    assert shop.call_patiently.delay(key).get(timeout=60) == key
    with pytest.raises(TooLongDeferred, match="the rate limit 1/m is used up"):
        shop.call_patiently.delay(key).get(timeout=60)
