"""The parts of a status that are counted: tasks, steps and failures."""

from __future__ import annotations

import re

from celery_operator.api import workflow as api
from celery_operator.api.workflow import StepStatus, TaskCounts
from celery_operator.domain.conditions import rfc3339, shorten
from celery_operator.domain.workflows.finish import failure_message
from celery_operator.domain.workflows.graph import Graph, Node
from celery_operator.domain.workflows.state import Code, RunState, StepState
from celery_patterns.protocol import task_id

INTERVALS_LENGTH = 1024
"""As long as ``status.steps[].failedIndexes``."""
STEP_MESSAGE_LENGTH = 256

_FAILED = re.compile(bytes((Code.FAILED,)) + b"+")


def intervals(items: bytes, length: int = INTERVALS_LENGTH) -> str:
    """Return the failed indexes as ``17,204-206``, cut between two intervals where the text would be longer."""
    text = ""
    for match in _FAILED.finditer(items):
        first, last = match.start(), match.end() - 1
        piece = f"{',' if text else ''}{first}" if first == last else f"{',' if text else ''}{first}-{last}"
        if len(text) + len(piece) > length:
            break
        text += piece
    return text


def step_counts(step: StepState) -> TaskCounts:
    """Return the tasks of a step; one whose number is not known counts as one, in its step's state."""
    if step.items is None:
        return TaskCounts(
            total=1,
            waiting=step.phase in ("Pending", "Running"),
            failed=step.phase == "Failed",
            skipped=step.phase in ("Skipped", "Revoked"),
        )
    counts = step.counts
    return TaskCounts(
        total=len(step.items),
        waiting=counts[Code.PENDING] + counts[Code.WAITING],
        queued=counts[Code.PUBLISHED],
        running=counts[Code.RUNNING],
        succeeded=counts[Code.SUCCEEDED],
        failed=counts[Code.FAILED],
        retried=sum(step.attempts.values()) - len(step.attempts),
        skipped=counts[Code.SKIPPED],
        revoked=counts[Code.REVOKED],
    )


def run_counts(graph: Graph, state: RunState) -> TaskCounts:
    """Return the tasks of all steps."""
    every = [step_counts(state.steps[node.name]) for node in graph.nodes]
    return TaskCounts(**{name: sum(getattr(each, name) for each in every) for name in TaskCounts.model_fields})


def step_statuses(graph: Graph, state: RunState) -> list[StepStatus]:
    """Return all steps, in the graph's order."""
    return [_step(node, state.steps[node.name]) for node in graph.nodes]


def _step(node: Node, step: StepState) -> StepStatus:
    single = node.kind == "Task"
    failed = not single and step.counts[Code.FAILED] and step.items is not None
    return StepStatus(
        name=node.name,
        type=node.kind,
        state=step.phase,
        tasks=None if single or step.items is None else step_counts(step),
        attempts=_attempts(step) if single else None,
        failed_indexes=intervals(step.items) if failed and step.items is not None else None,
        start_time=None if step.started is None else rfc3339(step.started),
        completion_time=None if step.ended is None else rfc3339(step.ended),
        message=shorten(failure_message(node, step), STEP_MESSAGE_LENGTH) if step.phase == "Failed" else None,
    )


def _attempts(step: StepState) -> int | None:
    """Return how often a single task was published."""
    code = step.items[0] if step.items else Code.PENDING
    begun = step.attempt(0) - (code in (Code.PENDING, Code.WAITING))
    never = code == Code.SKIPPED and step.attempt(0) == 1
    return None if never or not begun else begun


def failures(graph: Graph, state: RunState, *, uid: str) -> list[api.Failure]:
    """Return the newest failed attempts, the newest first; what is one task by its kind has no index."""
    return [
        api.Failure(
            step=failure.step,
            index=None if _is_one_task(graph.by_name[failure.step], state.steps[failure.step]) else failure.index,
            task_id=task_id(uid, state.run, failure.step, failure.index, failure.attempt),
            attempt=failure.attempt,
            exception=failure.exception,
            message=failure.message,
            worker=failure.worker,
            time=rfc3339(failure.time),
        )
        for failure in reversed(state.failures)
    ]


def _is_one_task(node: Node, step: StepState) -> bool:
    """Say whether a step is a task, or a reduce that needs no tree."""
    return node.kind == "Task" or (node.kind == "Reduce" and step.items is not None and len(step.items) == 1)
