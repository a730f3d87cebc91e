"""What reading stored results has given to a run that asked for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_operator.domain.errors import ResultBackendError
from celery_operator.domain.messages import TaskResult
from celery_operator.domain.workflows.plan import Fetch

TOLERATED = TaskResult(state="SUCCESS", value=None)
"""Stands in a list for an item whose failure was tolerated."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """By the keys that the plan gave what it asked for: the values, and why there are none."""

    values: Mapping[str, Any]
    unreadable: Mapping[str, str]


def task_ids(wanted: Sequence[Fetch]) -> list[str]:
    """Return the tasks whose results are asked for."""
    return [task_id for fetch in wanted for task_id in fetch.task_ids if task_id is not None]


def fetched(wanted: Sequence[Fetch], results: Mapping[str, TaskResult]) -> Fetched:
    """Put the results that the backend had to where they were asked for."""
    values: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for fetch in wanted:
        found = [results.get(task_id) if task_id is not None else TOLERATED for task_id in fetch.task_ids]
        each = [result.value for result in found if result is not None and result.state == "SUCCESS"]
        if len(each) < len(found):
            unreadable[fetch.key] = "its result is no longer stored: see result_expires of the application"
        else:
            values[fetch.key] = each if fetch.many else each[0]
    return Fetched(values, unreadable)


def overdue(wanted: Sequence[Fetch], error: ResultBackendError) -> Fetched:
    """Give up what could not be read before the run's deadline: by then nothing but outputs is asked for."""
    why = f"activeDeadlineSeconds passed before the result backend answered: {error.message}"
    return Fetched({}, {fetch.key: why for fetch in wanted})
