"""Who gets a task's result: the backend, the rest of its canvas, a workflow. Read from the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery.app.task import get_actual_ignore_result

from celery_patterns import protocol


def is_wanted(task: Any, request: Any) -> bool:
    """Whether the result goes anywhere."""
    return not get_actual_ignore_result(task, request) or next(_next(request), None) is not None


def hindrance(request: Any, exchanges: Callable[[str], bool]) -> str | None:
    """Return why a claim cannot stand in the result's place, in words for an error; None if it can.

    Args:
        request: Of the task that has ended.
        exchanges: Whether a task of this name exchanges the claims that it gets.
    """
    if request.get(protocol.TASK_HEADER) is not None:
        return "the task is a workflow's, whose results are read where they are: return a reference"
    for signature in _next(request):
        for name in _first_tasks(signature):
            if not exchanges(name):
                return (
                    f"it is passed on to {name}, which has no PayloadLimit here and could not read it from elsewhere: "
                    "give that task the policy, or return a reference"
                )
    return None


def _next(request: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the signatures that Celery publishes with the result."""
    yield from request.get("callbacks") or ()
    chain, body = request.get("chain"), request.get("chord")
    if chain:
        yield chain[-1]
    if body:
        yield body


def _first_tasks(signature: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the tasks that get the value which a signature is called with."""
    if signature.get("immutable"):
        return
    name, kwargs = signature.get("task"), signature.get("kwargs") or {}
    if name == "celery.chain":
        yield from _first_tasks(kwargs["tasks"][0])
    elif name in ("celery.group", "celery.chord"):
        header = kwargs["tasks" if name == "celery.group" else "header"]
        # A chord's header is a list, or a group in its place.
        for each in [header] if isinstance(header, Mapping) else header:
            yield from _first_tasks(each)
    else:
        yield str(name)
