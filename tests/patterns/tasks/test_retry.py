"""Retries, time limits and progress with a real worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from celery_patterns.tasks import cancel, read_progress
from celery_patterns.tasks.errors import Cancelled
from celery_patterns.tasks.state import ProgressReport
from patterns.tasks import shop
from servers import eventually

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("worker")


def test_a_task_comes_again_under_its_id_with_its_attempt_in_the_header(ledger: Ledger, key: str) -> None:
    result = shop.fetch.delay(key, 2)
    answer = result.get(timeout=60)
    assert (answer["attempt"], answer["id"]) == (3, result.id)
    assert {**answer["header"], "first_at": 0} == {"attempt": 3, "deferrals": 0, "deferred": 0.0, "first_at": 0}
    assert [entry["attempt"] for entry in ledger(key, "start")] == [1, 2, 3]


def test_after_the_last_retry_the_error_is_the_result(ledger: Ledger, key: str) -> None:
    with pytest.raises(shop.Flaky):
        shop.fetch.delay(key, 99).get(timeout=60)
    assert len(ledger(key, "start")) == 4


@pytest.mark.parametrize(("error", "kind"), [("reset", ConnectionResetError), ("key", KeyError)])
def test_other_errors_are_not_tried_again(ledger: Ledger, key: str, error: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        shop.fetch.delay(key, 99, error).get(timeout=60)
    assert len(ledger(key, "start")) == 1


def test_deferrals_cost_no_retry(key: str) -> None:
    """Two tasks share 2/s with one retry each: they are deferred more often than they may be retried."""
    results = [shop.fetch_rarely.delay(key) for _ in range(3)]
    answers = [result.get(timeout=60) for result in results]
    assert [answer["attempt"] for answer in answers] == [2, 2, 2]
    assert sum(answer["deferrals"] for answer in answers) >= 3


def test_the_soft_limit_raises_in_the_task_and_the_hard_one_kills_it(key: str) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        shop.slow.delay(key, 10).get(timeout=60)
    with pytest.raises(TimeLimitExceeded):
        shop.slow.delay(key, 10, stubborn=True).get(timeout=60)
    assert shop.slow.delay(key, 0).get(timeout=60) == key


def test_a_retry_continues_from_the_checkpoint(ledger: Ledger) -> None:
    result = shop.crawl.delay(50, fail_at=30)
    assert result.get(timeout=60) == {"begin": 30, "deliveries": 2}
    assert [entry["begin"] for entry in ledger(result.id, "start")] == [0, 30]


def test_a_task_whose_process_was_killed_continues_from_the_checkpoint() -> None:
    assert shop.crawl.delay(50, kill_at=20).get(timeout=60) == {"begin": 20, "deliveries": 2}


def ended(report: ProgressReport | None) -> list[ProgressReport]:
    """Return it once it says how the task ended."""
    return [report] if report is not None and report.outcome else []


def test_progress_can_be_read_after_the_end() -> None:
    result = shop.crawl.delay(7)
    result.get(timeout=60)
    report = eventually(lambda: ended(read_progress(result.id, shop.app)))[0]
    assert (report.done, report.total, report.note, report.fraction, report.outcome) == (7, 7, "page 6", 1.0, "success")
    assert read_progress("unknown", shop.app) is None


def test_a_task_stops_at_a_heartbeat_when_it_is_asked_to(wait_start: WaitStart) -> None:
    result = shop.wait_for_cancel.delay()
    wait_start(result.id)
    cancel(result.id, shop.app)
    with pytest.raises(Cancelled, match=f"task {result.id} was asked to stop"):
        result.get(timeout=60)
