"""The safety net behind announcements: look at what was published and has not ended, and say what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from celery_operator.domain.messages import Claim, TaskResult
from celery_operator.domain.workflows.lookups import Outstanding
from celery_operator.domain.workflows.plan import Outcome, OutcomeState
from celery_operator.services.ports import ResultBackend
from celery_operator.services.workflows.listener import failure_state

FIRST_INTERVAL = timedelta(seconds=1)
"""After the last sign of progress: soon, for what was missed in the moment of a reconnection."""

BUSY_INTERVAL = timedelta(seconds=5)
"""While there is progress all the time: what was missed among much that was heard can wait so long."""

LONGEST_INTERVAL = timedelta(seconds=30)
"""In a long step. With workers that announce, a sweep finds nothing; this bounds the rare case that it does."""

SLICE = 500
"""Tasks looked at in one sweep; the next one goes on behind them."""


def next_interval(previous: timedelta) -> timedelta:
    """Return how long to wait for the next sweep if nothing happened since the last: twice as long, within bounds."""
    return min(max(previous * 2, FIRST_INTERVAL), LONGEST_INTERVAL)


def after_progress(due: datetime, *, swept: datetime, now: datetime, soon: timedelta) -> datetime:
    """Return when to sweep after a sign of progress: ``soon``, but within BUSY_INTERVAL of the last one (``swept``).

    A sweep that is due already, or half done, is not put off.
    """
    return due if due <= now else min(now + soon, swept + BUSY_INTERVAL)


UNTOLD_RETRY_AFTER = timedelta(hours=23)
"""Celery's own retry of which the claim does not say when it is due (an older agent, or no answer of the store when it
was noted) counts as due so long after the end of its predecessor: an hour before that claim is forgotten
(CLAIM_KEEP_SECONDS), and later than any countdown that a Redis broker with its usual visibility timeout can keep."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found."""

    outcomes: tuple[Outcome, ...] = ()
    never_begun: tuple[Outstanding, ...] = ()
    """Published, but no worker holds a claim on them and no result exists: waiting, or gone with the broker's data.
    Those that Celery itself retries are among them once the retry is due, and say where they go on."""
    seen_claims: bool = False
    """True if any claim was found: workers guard attempts here."""


async def sweep(backend: ResultBackend, tasks: Sequence[Outstanding], *, now: datetime, settled: bool = True) -> Swept:
    """Ask the backend about the tasks and return what it knows.

    Attempts whose worker died more than ``lost_after`` ago are abandoned first, so that they can never begin
    again, and then reported as lost; but not while the backend has not ``settled``: the leases that it knows may be
    from before it was away. Raises ResultBackendError.
    """
    if not tasks:
        return Swept()
    ids = [task.task_id for task in tasks]
    results = await backend.read(ids)
    open_ids = [task_id for task_id in ids if task_id not in results or not results[task_id].final]
    claims = await backend.claims(open_ids) if open_ids else {}
    dead = [
        task.task_id
        for task in tasks
        if settled
        and (claim := claims.get(task.task_id)) is not None
        and claim.state == "running"
        and claim.lease_over
        and claim.seconds_since_lease > task.lost_after
    ]
    abandoned = await backend.abandon(dead) if dead else frozenset()
    outcomes: list[Outcome] = []
    never_begun: list[Outstanding] = []
    for task in tasks:
        result, claim = results.get(task.task_id), claims.get(task.task_id)
        if result is not None and result.final:
            outcomes.append(_from_result(task, result, now))
        elif claim is None:
            if result is None:
                never_begun.append(task)
        elif task.task_id in abandoned or claim.state == "abandoned":
            outcomes.append(_lost(task, claim.worker, now))
        elif claim.state == "returned" or _comes_again(claim, result):
            if task.running:
                outcomes.append(_outcome(task, "retrying", now))
            if claim.state == "returned" or _retry_is_due(claim):
                never_begun.append(replace(task, resumption=claim.resumption))
        else:
            outcomes.append(_begun(task, claim, now))
    return Swept(tuple(outcomes), tuple(never_begun), seen_claims=bool(claims))


def _begun(task: Outstanding, claim: Claim, now: datetime) -> Outcome:
    """Return what a claim says that no result contradicts."""
    if not claim.rejected:
        return _outcome(task, "started", now, worker=claim.worker)
    message = "the task ended without a result"
    return _outcome(task, "failed", now, exception=claim.rejected, message=message, worker=claim.worker)


def _lost(task: Outstanding, worker: str, now: datetime) -> Outcome:
    message = f"worker {worker or 'unknown'} died or was cut off while it ran this attempt"
    return _outcome(task, "lost", now, exception="WorkerLost", message=message, worker=worker)


def _comes_again(claim: Claim, result: TaskResult | None) -> bool:
    """Say whether the execution has ended with a retry by Celery's own means that nobody has begun."""
    told = claim.retry_overdue_seconds is not None or (result is not None and result.state == "RETRY")
    return claim.state == "done" and told and not claim.rejected


def _retry_is_due(claim: Claim) -> bool:
    overdue = claim.retry_overdue_seconds
    return claim.seconds_since_lease >= UNTOLD_RETRY_AFTER.total_seconds() if overdue is None else overdue >= 0


def _from_result(task: Outstanding, result: TaskResult, now: datetime) -> Outcome:
    if result.state == "SUCCESS":
        return _outcome(task, "succeeded", now, result=result, worker=result.worker)
    if result.state == "REVOKED":
        return _outcome(task, "revoked", now, worker=result.worker)
    return _outcome(
        task,
        failure_state(result.exception),
        now,
        exception=result.exception or result.state,
        message=result.message,
        worker=result.worker,
    )


def _outcome(
    task: Outstanding,
    state: OutcomeState,
    now: datetime,
    *,
    result: TaskResult | None = None,
    exception: str = "",
    message: str = "",
    worker: str = "",
) -> Outcome:
    return Outcome(
        step=task.step,
        index=task.index,
        attempt=task.attempt,
        state=state,
        size=result.size if result else 0,
        value=result.value if result else None,
        has_value=result is not None,
        exception=exception,
        message=message,
        worker=worker,
        time=now,
    )
