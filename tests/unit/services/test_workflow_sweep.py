"""What a sweep makes of an attempt that Celery itself retries: nobody may wait for a retry that nobody has any more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from celery_operator.domain.messages import Claim, Resumption, TaskResult
from celery_operator.domain.workflows.lookups import Outstanding
from celery_operator.services.workflows.sweep import UNTOLD_RETRY_AFTER, sweep
from celery_patterns.protocol import CLAIM_KEEP_SECONDS
from fakes.brokers import FakeResultBackend

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TASK = Outstanding(step="s", index=0, attempt=1, task_id="t", running=True, lost_after=60)
SECOND = Resumption(2, queue="slow", tries={"deferrals": 1})
RETRY, STARTED, SUCCESS = TaskResult("RETRY"), TaskResult("STARTED"), TaskResult("SUCCESS")
LONG_AGO = UNTOLD_RETRY_AFTER.total_seconds()


def done(**fields: Any) -> Claim:
    return Claim("done", resumption=SECOND, **fields)


@pytest.mark.parametrize(
    ("claim", "result", "told", "goes_on"),
    [
        pytest.param(done(retry_overdue_seconds=-0.1), RETRY, ["retrying"], None, id="not due yet"),
        pytest.param(done(retry_overdue_seconds=0.0), RETRY, ["retrying"], SECOND, id="due"),
        pytest.param(done(retry_overdue_seconds=9.0), None, ["retrying"], SECOND, id="due, its result gone"),
        pytest.param(done(retry_overdue_seconds=9.0), SUCCESS, ["succeeded"], None, id="ended after all"),
        pytest.param(done(seconds_since_lease=LONG_AGO - 1), RETRY, ["retrying"], None, id="older agent"),
        pytest.param(done(seconds_since_lease=LONG_AGO), RETRY, ["retrying"], SECOND, id="older agent, long ago"),
        pytest.param(done(seconds_since_lease=LONG_AGO), None, ["started"], None, id="no retry that is known of"),
        pytest.param(Claim("returned", resumption=SECOND), RETRY, ["retrying"], SECOND, id="retry given back"),
        pytest.param(Claim("returned"), STARTED, ["retrying"], None, id="first execution given back"),
        pytest.param(Claim("running", resumption=SECOND), RETRY, ["started"], None, id="retry runs"),
    ],
)
async def test_a_retry_is_missed_once_it_is_due(
    claim: Claim, result: TaskResult | None, told: list[str], goes_on: Resumption | None
) -> None:
    backend = FakeResultBackend()
    backend.claimed = {"t": claim}
    backend.results = {} if result is None else {"t": result}
    found = await sweep(backend, [TASK], now=NOW)
    assert [outcome.state for outcome in found.outcomes] == told
    missed = claim.state == "returned" or goes_on is not None
    assert found.never_begun == ((replace(TASK, resumption=goes_on),) if missed else ())


@pytest.mark.parametrize("result", [None, STARTED, RETRY], ids=["none", "older", "retry before it"])
async def test_an_end_without_a_result_is_a_failure_though_nobody_heard_of_it(result: TaskResult | None) -> None:
    """Ignore and Reject store nothing: what was announced while no operator listened is said by the claim alone."""
    backend = FakeResultBackend()
    backend.claimed = {"t": Claim("done", worker="w", rejected="Ignore")}
    backend.results = {} if result is None else {"t": result}
    (outcome,) = (await sweep(backend, [TASK], now=NOW)).outcomes
    assert (outcome.state, outcome.exception, outcome.worker) == ("failed", "Ignore", "w")
    assert outcome.message == "the task ended without a result"


async def test_what_waits_for_its_retry_is_told_of_once() -> None:
    backend = FakeResultBackend()
    backend.claimed, backend.results = {"t": done(retry_overdue_seconds=-60.0)}, {"t": RETRY}
    assert (await sweep(backend, [replace(TASK, running=False)], now=NOW)).outcomes == ()


def test_a_retry_without_a_time_is_published_again_before_its_claim_is_forgotten() -> None:
    assert 0 < CLAIM_KEEP_SECONDS - LONG_AGO <= 3600
