"""Keeps a status below its bound, whatever is in it, by leaving out detail in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Callable

from pydantic_core import PydanticSerializationError

from celery_operator.api.model import ApiModel
from celery_operator.api.workflow import StepStatus, WorkflowStatus

STATUS_BYTES = 61_440
"""60 KiB of the promised 64, as JSON in UTF-8: the rest is for those who write it differently."""

_KEPT_FIRST = {"Failed": 0, "Running": 1, "Revoked": 2, "Pending": 3, "Skipped": 4, "Succeeded": 5}
"""Which steps stay when not all can: those that somebody will ask for first."""


def size_of(model: ApiModel) -> int:
    """Return the bytes of a model as JSON, with the spaces that some writers add."""
    text = json.dumps(model.to_resource(), ensure_ascii=False)
    return len(text.encode(errors="surrogatepass"))


def _surely_fits(status: WorkflowStatus) -> bool:
    """Whether the status is small beyond doubt, at a fifth of what counting exactly costs: nearly all are."""
    try:
        text = status.model_dump_json(by_alias=True, exclude_none=True)
    except PydanticSerializationError:  # half a surrogate pair in an output
        return False
    spaces = text.count(",") + text.count(":")
    return len(text.encode()) + spaces <= STATUS_BYTES


def bounded(status: WorkflowStatus) -> WorkflowStatus:
    """Return the status, with as much detail as fits.

    Left out, in this order, until it fits: failedIndexes and messages of steps; their times; their counts; whole steps
    (those that succeeded first, those that failed last); the oldest failures; the outputs' values.
    """
    if _surely_fits(status):
        return status
    for step in _STAGES:
        if size_of(status) <= STATUS_BYTES:
            return status
        status = step(status)
    return status


def _without(*fields: str) -> Callable[[WorkflowStatus], WorkflowStatus]:
    def strip(status: WorkflowStatus) -> WorkflowStatus:
        cleared = dict.fromkeys(fields)
        return status.model_copy(update={"steps": [each.model_copy(update=cleared) for each in status.steps]})

    return strip


def _fewer_steps(status: WorkflowStatus) -> WorkflowStatus:
    room = STATUS_BYTES - size_of(status.model_copy(update={"steps": []}))
    kept: list[tuple[int, StepStatus]] = []
    for number, each in sorted(enumerate(status.steps), key=lambda pair: (_KEPT_FIRST[pair[1].state], pair[0])):
        room -= size_of(each) + len(", ")
        if room < 0:
            break
        kept.append((number, each))
    return status.model_copy(update={"steps": [each for _, each in sorted(kept, key=lambda pair: pair[0])]})


def _fewer_failures(status: WorkflowStatus) -> WorkflowStatus:
    while status.failures and size_of(status) > STATUS_BYTES:
        status = status.model_copy(update={"failures": status.failures[:-1]})
    return status


def _no_outputs(status: WorkflowStatus) -> WorkflowStatus:
    return status.model_copy(update={"outputs": []})


_STAGES = (
    _without("failed_indexes", "message"),
    _without("start_time", "completion_time"),
    _without("tasks", "attempts"),
    _fewer_steps,
    _fewer_failures,
    _no_outputs,
)
