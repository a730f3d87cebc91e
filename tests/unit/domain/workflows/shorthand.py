"""Short ways to write specs, and to say which messages and ids are expected of them."""

from __future__ import annotations

from typing import Any

from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.state import RunState, initial_state
from celery_patterns.protocol import ResultReference, TaskIdentity, task_id
from unit.domain.workflows.simulation import NOW, UID, graph_of

NO_JITTER = {"initialSeconds": 4, "factor": 3, "maxSeconds": 10, "jitterPercent": 0}


def task(name: str = "f", *args: Any, **fields: Any) -> dict[str, Any]:
    """Return a task of a spec; an argument that is a dictionary is where its value comes from."""
    written = [{"valueFrom": each} if isinstance(each, dict) else {"value": each} for each in args]
    return {"name": name, **({"args": written} if written else {}), **fields}


def t(name: str = "f", *args: Any, **fields: Any) -> dict[str, Any]:
    """Return an element that is one task."""
    return {"task": task(name, *args, **fields)}


def mapped(items: dict[str, Any], *args: Any, **fields: Any) -> dict[str, Any]:
    """Return an element that is a map of the task ``m``."""
    return {"map": {"items": items, **t("m", *args), **fields}}


def begin(**work: Any) -> tuple[Graph, RunState]:
    """Compile the work; return its graph, and the state of a run that has just begun."""
    graph = graph_of(**work)
    return graph, initial_state(graph, now=NOW)


def message(
    name: str, call: str, *args: Any, index: int = 0, attempt: int = 1, inline: bool = True, **fields: Any
) -> TaskMessage:
    """Return the message of an attempt."""
    identity = TaskIdentity(UID, 1, name, index, attempt, values_inline=inline)
    return TaskMessage(identity, call, args, **fields)


def attempt_id(name: str, index: int = 0, attempt: int = 1) -> str:
    """Return the task id of an attempt."""
    return task_id(UID, 1, name, index, attempt)


def reference(name: str, **fields: Any) -> dict[str, Any]:
    """Return what stands in a message for a step's result."""
    return ResultReference(UID, 1, name, **fields).to_json()


def phases(state: RunState) -> dict[str, str]:
    """Return each step's phase."""
    return {name: each.phase for name, each in state.steps.items()}
