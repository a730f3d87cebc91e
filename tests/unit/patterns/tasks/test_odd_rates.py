"""Rates that no clock can be asked for."""

from __future__ import annotations

import pytest

from celery_patterns.tasks import PolicyError, RateLimit


@pytest.mark.parametrize(("rate", "burst"), [("1/99999999999999999d", 1), ("1/400d", 1), ("1/d", 500)])
def test_rate_that_reaches_over_more_than_a_year_is_refused(rate: str, burst: int) -> None:
    with pytest.raises(PolicyError, match="reaches over more than a year"):
        RateLimit(rate, burst=burst)


def test_slow_rates_are_fine() -> None:
    assert RateLimit("1/365d").rate == "1/365d"
