"""Publishing the same attempts once more, when nobody has them any more."""

from __future__ import annotations

from collections.abc import Iterable

from celery_operator.domain.workflows.draft import RunDraft
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lookups import Outstanding
from celery_operator.domain.workflows.state import Code, RunState


def publish_again(graph: Graph, state: RunState, tasks: Iterable[Outstanding], *, uid: str) -> RunState:
    """Return the state in which these tasks are still to be published, under the same ids.

    For tasks that no worker has begun and that no queue holds: the broker lost its data. What Celery itself was to
    retry goes on at that retry. Should one of them turn up after all, its worker runs it once. Tasks that have begun or
    ended meanwhile, or whose attempt is another one now, stay as they are.
    """
    draft = RunDraft(graph, state, uid=uid)
    for task in tasks:
        step = draft.step(task.step)
        if (
            step.items is not None
            and step.items[task.index] == Code.PUBLISHED
            and step.attempt(task.index) == task.attempt
        ):
            step.set_code(task.index, Code.PENDING)
            if task.resumption is not None:
                step.resume(task.index, task.resumption)
    return draft.frozen()
