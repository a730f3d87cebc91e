"""Takes in what became of attempts. Each fact counts once, whatever the order and however often it is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from celery_operator.domain.workflows.draft import RunDraft, StepDraft
from celery_operator.domain.workflows.graph import Call
from celery_operator.domain.workflows.plan import Observed, Outcome
from celery_operator.domain.workflows.retry import FailureClass, retry_delay
from celery_operator.domain.workflows.state import ENDED, Cause, Code, Due, Failure
from celery_operator.domain.workflows.values import is_small, value_key
from celery_patterns.protocol import MESSAGE_CHARACTERS, mask_url

EXCEPTION_CHARACTERS = 128
WORKER_CHARACTERS = 128
"""As long as the fields of ``status.failures``."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""What JSON must escape at length, or cannot hold."""

_CUT_URL = re.compile(r"://[^/@\s]*$")
"""A URL at the end of a text that was cut: what shows that it has credentials may be missing."""

_CLASSES: dict[str, FailureClass] = {"failed": "Failed", "timed_out": "TimedOut", "lost": "Lost"}
_DEFAULT_EXCEPTIONS = {
    "failed": "Exception",
    "timed_out": "TimeLimitExceeded",
    "lost": "WorkerLostError",
    "revoked": "TaskRevokedError",
}
_DEFAULT_MESSAGES = {
    "timed_out": "the task's time limit ended it",
    "lost": "its worker died",
    "revoked": "somebody else revoked it",
}


def clean_text(text: str, length: int) -> str:
    """Return a text as status may hold it: printable, without credentials of URLs, and cut."""
    looked_at = 4 * length  # the search for URLs must not take long in whatever a task raises
    masked = mask_url(text[:looked_at])
    if len(text) > looked_at:
        masked = _CUT_URL.sub("://***", masked)
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", masked)[:length]


def absorb(draft: RunDraft, observed: Observed, *, now: datetime) -> None:
    """Take in everything that was observed."""
    for outcome in _in_order(observed.outcomes):
        _absorb_outcome(draft, outcome, now)
    for key, value in observed.values.items():
        draft.keep_value(key, value)
    for key, why in observed.unreadable.items():
        draft.keep_unreadable(key, clean_text(why, MESSAGE_CHARACTERS))


def _in_order(outcomes: tuple[Outcome, ...]) -> Iterable[Outcome]:
    # A batch may hold two attempts of one item; the later one must not hide how the earlier one failed.
    if all(outcome.attempt == 1 for outcome in outcomes):
        return outcomes
    return sorted(outcomes, key=lambda outcome: outcome.attempt)


def _absorb_outcome(draft: RunDraft, outcome: Outcome, now: datetime) -> None:
    if outcome.step not in draft.graph.by_name:
        return
    step = draft.step(outcome.step)
    if step.items is None or not 0 <= outcome.index < len(step.items) or step.items[outcome.index] in ENDED:
        return
    call = step.node.call_of(outcome.index, len(step.items))
    current = step.attempt(outcome.index)
    if not current <= outcome.attempt <= call.retry.limit + 1:
        return
    if outcome.attempt > current:
        # Published by an operator that died before it noted so: the attempts before it have failed.
        step.set_attempt(outcome.index, outcome.attempt)
    match outcome.state:
        case "started":
            _move(step, outcome.index, Code.RUNNING)
        case "retrying":
            _move(step, outcome.index, Code.PUBLISHED)
        case "succeeded":
            step.set_code(outcome.index, Code.SUCCEEDED)
            if step.node.kind != "Reduce" or outcome.index == len(step.items) - 1:
                step.size += outcome.size
            _keep_small(draft, step, outcome)
        case "failed" | "timed_out" | "lost" | "revoked":
            _fail(draft, step, call, outcome, now)


def _move(step: StepDraft, index: int, code: Code) -> None:
    if step.items is not None and step.items[index] != code:
        step.set_code(index, code)


def _keep_small(draft: RunDraft, step: StepDraft, outcome: Outcome) -> None:
    if not outcome.has_value or step.node.kind == "Map" or outcome.index != len(step.items or b"") - 1:
        return
    if is_small(outcome.value):
        draft.keep_value(value_key(step.node.name), outcome.value)


def _fail(draft: RunDraft, step: StepDraft, call: Call, outcome: Outcome, now: datetime) -> None:
    name, index, attempt = step.node.name, outcome.index, outcome.attempt
    identity = draft.task_id(name, index, attempt)
    exception = clean_text(outcome.exception or _DEFAULT_EXCEPTIONS[outcome.state], EXCEPTION_CHARACTERS)
    message = clean_text(outcome.message or _DEFAULT_MESSAGES.get(outcome.state, ""), MESSAGE_CHARACTERS)
    worker = clean_text(outcome.worker, WORKER_CHARACTERS)
    draft.record(Failure(name, index, attempt, exception, message, worker, outcome.time))
    failure = _CLASSES.get(outcome.state)
    delay = retry_delay(call.retry, failure, attempt=attempt, task_id=identity) if failure else None
    if delay is None:
        step.set_code(index, Code.FAILED)
        step.lost += outcome.state == "lost"
        step.blame(Cause(index, attempt, exception, message))
    elif delay:
        step.wait(Due(max(now, outcome.time) + delay, index, attempt + 1))
    else:
        step.set_attempt(index, attempt + 1)
        step.set_code(index, Code.PENDING)
