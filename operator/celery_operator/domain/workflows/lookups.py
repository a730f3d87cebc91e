"""What is published and has not ended, for the sweep that looks after what was never announced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from celery_operator.domain.messages import Resumption
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lost import LOST_AFTER_SECONDS
from celery_operator.domain.workflows.state import Code, RunState
from celery_patterns.protocol import task_id

_ACTIVE = re.compile(b"[" + bytes((Code.PUBLISHED, Code.RUNNING)) + b"]")


@dataclass(frozen=True, slots=True)
class Outstanding:
    """One attempt that was published."""

    step: str
    index: int
    attempt: int
    task_id: str
    running: bool
    """A worker has said that it began."""
    lost_after: int
    """Seconds without a sign of life after which it counts as lost."""
    resumption: Resumption | None = None
    """Where it goes on if it is published again; None: from its beginning."""


def outstanding(
    graph: Graph,
    state: RunState,
    *,
    uid: str,
    limit: int | None = None,
    after: tuple[str, int] | None = None,
    lost_after: int = LOST_AFTER_SECONDS,
) -> Iterator[Outstanding]:
    """Yield what is published and not finished, in the graph's order; at most ``limit``.

    ``after`` is the (step, index) of the last one of the slice before; ``lost_after`` is for tasks that set none.
    """
    return islice(_all(graph, state, uid, after, lost_after), limit)


def _all(
    graph: Graph, state: RunState, uid: str, after: tuple[str, int] | None, lost_after: int
) -> Iterator[Outstanding]:
    passed = after is None
    for node in graph.nodes:
        start = 0
        if not passed:
            if after is None or node.name != after[0]:
                continue
            passed, start = True, after[1] + 1
        step = state.steps[node.name]
        items = step.items
        if items is None or not step.active:
            continue
        for match in _ACTIVE.finditer(items, start):
            index = match.start()
            attempt = step.attempt(index)
            yield Outstanding(
                step=node.name,
                index=index,
                attempt=attempt,
                task_id=task_id(uid, state.run, node.name, index, attempt),
                running=items[index] == Code.RUNNING,
                lost_after=node.call_of(index, len(items)).lost_after or lost_after,
            )
