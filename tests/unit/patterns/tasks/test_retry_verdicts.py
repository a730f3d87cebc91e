"""Which errors a Retry tries again, and after which pause; without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from celery_patterns.resilience.classification import Poison, Rules, Transient
from celery_patterns.tasks import Retry
from celery_patterns.tasks.errors import Cancelled
from celery_patterns.tasks.policy import Again, Call


class Busy(Exception):  # noqa: N818
    """What no table knows."""


class Answer:
    """As the answer of an HTTP library's error."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code, self.headers = status, headers


class HTTPError(Exception):
    """As an HTTP library's."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.response = Answer(status, {name.replace("_", "-"): value for name, value in headers.items()})


def again(retry: Retry, error: BaseException, attempt: int = 1) -> Again | None:
    """Ask once; the pauses have no jitter, so that they can be compared."""
    task: Any = None
    return retry.on_failure(Call(task=task, id="1", token="t", arguments={}, attempt=attempt), error)


PLAIN = Retry(max=2, base=1, jitter="none")


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), TimeoutError(), Busy(), OSError(11, "again"), HTTPError(503)],
    ids=lambda error: repr(error)[:30],
)
def test_without_on_what_may_pass_is_tried_again_and_what_nobody_knows(error: Exception) -> None:
    assert again(PLAIN, error) == Again(1.0, f"attempt 1 of 3 failed: {type(error).__name__}")
    assert again(PLAIN, error, attempt=3) is None


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), TypeError("x"), KeyError("x"), FileNotFoundError(2, "x"), HTTPError(404), MemoryError()],
    ids=lambda error: repr(error)[:30],
)
def test_without_on_what_fails_the_same_way_each_time_is_not_tried_again(error: Exception) -> None:
    assert again(PLAIN, error) is None


def test_with_on_nothing_else_is_tried_again() -> None:
    retry = Retry(on=(Busy, ValueError), never=UnicodeError, base=1, jitter="none")
    assert again(retry, ValueError("named, so it is tried")) is not None
    assert again(retry, UnicodeError("a ValueError, but never")) is None
    assert again(retry, ConnectionResetError()) is None


def test_rules_decide_about_what_on_does_not_name() -> None:
    rules = Rules(
        statuses={409: Transient("a concurrent write")}, decide=(lambda e: Poison("no") if "!" in str(e) else None,)
    )
    retry = Retry(on=Busy, rules=rules, base=1, jitter="none")
    assert [again(retry, error) is not None for error in (Busy("!"), ConnectionResetError(), HTTPError(409))] == [
        True
    ] * 3
    assert [again(retry, error) for error in (HTTPError(404), ConnectionResetError("!"), RuntimeError())] == [None] * 3


def test_the_other_side_says_how_long_to_wait() -> None:
    assert again(PLAIN, HTTPError(429, retry_after="30")) == Again(30.0, "attempt 1 of 3 failed: HTTPError")
    busy = Busy()
    busy.retry_after = 7  # type: ignore[attr-defined]
    named = Retry(on=Busy, base=1, jitter="none")
    assert again(named, busy) == Again(7.0, "attempt 1 of 4 failed: Busy")
    busy.retry_after = 10**9  # type: ignore[attr-defined]
    assert again(named, busy) == Again(1.0, "attempt 1 of 4 failed: Busy"), "nobody means that"


def test_a_task_that_was_asked_to_stop_is_not_tried_again() -> None:
    assert again(Retry(on=Exception), Cancelled()) is None
