"""Rates that no clock can be asked for."""

from __future__ import annotations

import pytest

from celery_patterns.tasks import PayloadLimit, PolicyError, RateLimit, Retry


@pytest.mark.parametrize(("rate", "burst"), [("1/999999999999999d", 1), ("1/400d", 1), ("1/d", 500)])
def test_rate_that_reaches_over_more_than_a_year_is_refused(rate: str, burst: int) -> None:
    with pytest.raises(PolicyError, match="reaches over more than a year"):
        RateLimit(rate, burst=burst)


@pytest.mark.parametrize("rate", ["2000000/s", "1001/ms", "999999999999999/s"])
def test_rate_that_would_limit_nothing_is_refused(rate: str) -> None:
    with pytest.raises(PolicyError, match="more than a million in a second"):
        RateLimit(rate)


@pytest.mark.parametrize("rate", ["1" * 400 + "/s", "1/" + "9" * 5000 + "d", "1." + "0" * 400 + "/s"])
def test_rate_of_endless_digits_is_refused(rate: str) -> None:
    with pytest.raises(PolicyError, match="expected a text such as '100/s'"):
        RateLimit(rate)


def test_sizes_and_durations_of_endless_digits_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"PayloadLimit.above: expected bytes or a text"):
        PayloadLimit(above="9" * 400 + "MB")
    with pytest.raises(PolicyError, match=r"Retry.base: expected seconds"):
        Retry(base="9" * 400 + "s")


def test_slow_rates_are_fine() -> None:
    assert RateLimit("1/365d").rate == "1/365d"
