"""How long to wait, and whether at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns.resilience.backoff import Backoff, GiveUp, TryAgain
from celery_patterns.resilience.budget import Budget
from celery_patterns.resilience.classification import Permanent, Poison, Throttled, Transient

ONE_SECOND = Backoff(first_seconds=1, cap_seconds=60, max_retries=3, jitter="none")


def test_waits_double_up_to_the_cap() -> None:
    assert [ONE_SECOND.wait(retries, 0.5) for retries in (0, 1, 5, 6, 2000)] == [1, 2, 32, 60, 60]


def test_jitter_takes_its_share_of_the_wait() -> None:
    full, equal = Backoff(first_seconds=8, jitter="full"), Backoff(first_seconds=8, jitter="equal")
    assert [full.wait(0, 0.0), full.wait(0, 0.5), equal.wait(0, 0.0), equal.wait(0, 0.5)] == [0, 4, 4, 6]


def test_only_what_may_pass_is_tried_again_and_not_for_ever() -> None:
    assert ONE_SECOND.decide(Transient("reset"), 2, 0) == TryAgain(4, "reset")
    assert ONE_SECOND.decide(Transient("reset"), 3, 0) == GiveUp("tried 4 times: reset")
    assert ONE_SECOND.decide(Permanent("bug"), 0, 0) == GiveUp("bug")
    assert ONE_SECOND.decide(Poison("oom"), 0, 0) == GiveUp("oom")


def test_wait_that_was_asked_for_is_kept_and_spread() -> None:
    assert ONE_SECOND.decide(Throttled("429", 100), 0, 0) == TryAgain(100, "429")
    assert ONE_SECOND.decide(Throttled("429", 100), 0, 0.5) == TryAgain(100 * 1.1, "429")
    assert ONE_SECOND.decide(Throttled("429", None), 1, 0) == TryAgain(2, "429")
    assert ONE_SECOND.decide(Throttled("429", 1), 3, 0) == GiveUp("tried 4 times: 429")


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.sampled_from(["full", "equal", "none"]))
def test_no_wait_is_above_the_cap(retries: int, random: float, jitter: str) -> None:
    backoff = Backoff(first_seconds=0.3, cap_seconds=77, jitter=jitter)  # type: ignore[arg-type]
    assert 0 <= backoff.wait(retries, random) <= 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_seconds": 5, "cap_seconds": 1}, "0 <= first_seconds <= cap_seconds, got 5 and 1"),
        ({"max_retries": -1}, "max_retries must be 0 or more, got -1"),
        ({"jitter": "some"}, "jitter must be 'full', 'equal' or 'none', got 'some'"),
    ],
)
def test_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backoff(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10%/1m", Budget(ratio=0.1, window_seconds=60, minimum=10)),
        ("2.5 % / 30s + 0", Budget(ratio=0.025, window_seconds=30, minimum=0)),
        ("100%/2h+7", Budget(ratio=1, window_seconds=7200, minimum=7)),
    ],
)
def test_budget_is_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["10", "10%", "10%/", "ten%/1m", "10%/1m+x", "-1%/1m", "10%/1y", "2000%/1m", "1%/10ms"]
)
def test_wrong_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        Budget.parse(text)
