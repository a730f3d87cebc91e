"""The form in which a run's state is kept. ``state.to_checkpoint`` and ``state.from_checkpoint`` are its doors.

``run.json``  {"v", "run", "started", "deadlineExceeded", "failures", "steps": {name: step}}; a step of which nothing
is known beyond the graph is left out. A step: ``p`` phase, ``n`` items, ``c`` their codes as digits if there are few,
``k`` which of the items that ended otherwise were skipped (1) or revoked (2), ``a`` attempt numbers, ``d`` waiting
retries [index, attempt, due in ms after the start], ``l`` when those come due that had no room in ``d``, ``s`` and
``e`` start and end, ``lost``, ``size``, ``cause``, ``error``.
``items.STEP``  two bits an item: 0 not published, 1 published, 2 succeeded, 3 ended otherwise.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from celery_operator.domain.workflows import bits
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.state import (
    CODES,
    Cause,
    Code,
    Due,
    Failure,
    RunState,
    StepState,
    initial_state,
    positions,
)

_VERSION = 1
_FEW_ITEMS = 64
"""Up to this many, one digit an item is as short as anything packed."""
_KEPT_DUE = 5000
"""Waiting retries of a run that are kept one by one (about 100 kB); others come back with the latest due time."""

_TO_DIGIT = bytes.maketrans(bytes((Code.WAITING, Code.RUNNING)), bytes((Code.PENDING, Code.PUBLISHED)))
_TO_BITS = bytes((0, 0, 1, 1, 2, 3, 3, 3)) + bytes(248)
_FROM_BITS = bytes((Code.PENDING, Code.PUBLISHED, Code.SUCCEEDED, Code.FAILED)) + bytes(252)
_TO_ENDED = bytes((0, 0, 0, 0, 0, 0, 1, 2)) + bytes(248)
_AGAIN = re.compile(rb"[^\x01]")
_MILLISECOND = timedelta(milliseconds=1)


def encode(state: RunState) -> dict[str, str]:
    """Return the state as a ConfigMap's data."""
    data: dict[str, str] = {}
    steps: dict[str, Any] = {}
    room = _KEPT_DUE
    for name, step in state.steps.items():
        if step.phase == "Pending" and (step.items is None or step.counts[Code.PENDING] == len(step.items)):
            continue
        body = _step(step)
        if step.items is not None:
            _encode_items(name, step.items, body, data)
        if step.counts[Code.WAITING]:
            room = _encode_due(step, state.started, room, body)
        steps[name] = body
    run = {
        "v": _VERSION,
        "run": state.run,
        "started": state.started.isoformat(),
        "deadlineExceeded": state.deadline_exceeded,
        "failures": [_failure(failure) for failure in state.failures],
        "steps": steps,
    }
    data["run.json"] = json.dumps(run, separators=(",", ":"), ensure_ascii=False)
    return data


def _step(step: StepState) -> dict[str, Any]:
    body: dict[str, Any] = {"p": step.phase}
    if step.started is not None:
        body["s"] = step.started.isoformat()
    if step.ended is not None:
        body["e"] = step.ended.isoformat()
    if step.lost:
        body["lost"] = step.lost
    if step.size:
        body["size"] = step.size
    if step.cause is not None:
        body["cause"] = [step.cause.index, step.cause.attempt, step.cause.exception, step.cause.message]
    if step.error is not None:
        body["error"] = step.error
    if step.attempts and step.items is not None:
        numbers = bytearray(b"\x01") * len(step.items)
        for index, attempt in step.attempts.items():
            numbers[index] = attempt
        body["a"] = bits.to_text(bytes(numbers))
    return body


def _encode_items(name: str, items: bytes, body: dict[str, Any], data: dict[str, str]) -> None:
    body["n"] = len(items)
    if len(items) <= _FEW_ITEMS:
        body["c"] = "".join(str(code) for code in items.translate(_TO_DIGIT))
        return
    data[f"items.{name}"] = bits.to_text(bits.pack(items.translate(_TO_BITS)))
    if Code.SKIPPED in items or Code.REVOKED in items:
        body["k"] = bits.to_text(bits.pack(items.translate(_TO_ENDED)))


def _encode_due(step: StepState, started: datetime, room: int, body: dict[str, Any]) -> int:
    waiting = [due for due in step.due if _waits(step, due)]
    kept = heapq.nsmallest(room, waiting) if len(waiting) > room else sorted(waiting)
    body["d"] = [[due.item, due.attempt, -(-(due.at - started) // _MILLISECOND)] for due in kept]
    if len(waiting) > len(kept):
        body["l"] = -(-(max(waiting).at - started) // _MILLISECOND)
    return room - len(kept)


def _waits(step: StepState, due: Due) -> bool:
    return step.items is not None and step.items[due.item] == Code.WAITING and step.attempt(due.item) == due.attempt


def _failure(failure: Failure) -> list[Any]:
    return [
        failure.step,
        failure.index,
        failure.attempt,
        failure.exception,
        failure.message,
        failure.worker,
        failure.time.isoformat(),
    ]


def _decode_failure(body: list[Any]) -> Failure:
    step, index, attempt, exception, message, worker, time = body
    return Failure(step, index, attempt, exception, message, worker, datetime.fromisoformat(time))


def decode(graph: Graph, data: Mapping[str, str]) -> RunState:
    """Read a ConfigMap's data. Raises ValueError if it is damaged or does not belong to this graph."""
    try:
        body = json.loads(data["run.json"])
        if body["v"] != _VERSION:
            raise ValueError(f"this operator reads checkpoints of version {_VERSION}, not {body['v']!r}")
        started = datetime.fromisoformat(body["started"])
        if unknown := [name for name in body["steps"] if name not in graph.by_name]:
            raise ValueError(f"the checkpoint has a step {unknown[0]!r} that the graph does not have")
        steps = dict(initial_state(graph, now=started).steps)
        for name, step in body["steps"].items():
            steps[name] = _decode_step(step, data.get(f"items.{name}"), started)
        return RunState(
            run=int(body["run"]),
            started=started,
            steps=steps,
            failures=tuple(_decode_failure(each) for each in body["failures"]),
            deadline_exceeded=bool(body["deadlineExceeded"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"the checkpoint is damaged: {error!r}") from error


def _decode_step(body: dict[str, Any], packed: str | None, started: datetime) -> StepState:
    items = _decode_items(body, packed)
    attempts: dict[int, int] = {}
    if "a" in body and items is not None:
        numbers = bits.from_text(body["a"], len(items))
        attempts = {match.start(): numbers[match.start()] for match in _AGAIN.finditer(numbers)}
    due = [Due(started + ms * _MILLISECOND, index, attempt) for index, attempt, ms in body.get("d", ())]
    if items is not None:
        if "l" in body:
            listed = {each.item for each in due}
            late = started + body["l"] * _MILLISECOND
            due += [
                Due(late, index, attempt)
                for index, attempt in attempts.items()
                if items[index] == Code.PENDING and index not in listed
            ]
        for each in due:
            items[each.item] = Code.WAITING
    heapq.heapify(due)
    return StepState(
        phase=body["p"],
        items=None if items is None else bytes(items),
        counts=(0,) * CODES if items is None else tuple(items.count(code) for code in range(CODES)),
        attempts=attempts,
        due=tuple(due),
        started=datetime.fromisoformat(body["s"]) if "s" in body else None,
        ended=datetime.fromisoformat(body["e"]) if "e" in body else None,
        lost=body.get("lost", 0),
        size=body.get("size", 0),
        cause=Cause(*body["cause"]) if "cause" in body else None,
        error=body.get("error"),
    )


def _decode_items(body: dict[str, Any], packed: str | None) -> bytearray | None:
    if "n" not in body:
        return None
    count = int(body["n"])
    if "c" in body:
        items = bytearray(int(digit) for digit in body["c"])
        if len(items) != count or max(items, default=0) >= CODES:
            raise ValueError(f"expected {count} item codes, found {body['c']!r}")
        return items
    if packed is None:
        raise ValueError(f"the states of {count} items are missing")
    length = -(-count // 4)
    items = bytearray(bits.unpack(bits.from_text(packed, length), count).translate(_FROM_BITS))
    if "k" in body:
        ended = bits.unpack(bits.from_text(body["k"], length), count)
        for code, kind in ((Code.SKIPPED, 1), (Code.REVOKED, 2)):
            for index in positions(ended, kind):
                items[index] = code
    return items
