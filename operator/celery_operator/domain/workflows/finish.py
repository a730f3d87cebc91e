"""How a run has ended, in a sentence, and what it shows at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import OutputReference, OutputValue, RunPolicy
from celery_operator.domain.workflows.draft import RunDraft, StepDraft
from celery_operator.domain.workflows.graph import Expression, Node, ResultList, StepResult
from celery_operator.domain.workflows.plan import Fetch, Finish
from celery_operator.domain.workflows.state import Code, StepState
from celery_operator.domain.workflows.values import Renderer, ValueUnavailableError, value_key
from celery_patterns.jsonpath import WHOLE, select

OUTPUT_BYTES = 4096
"""JSON bytes of all outputs that stand in status by value."""
_STORED_OUTPUT_BYTES = 16_384
"""Results stored larger than this are not read to be shown whole: their value would not fit, whatever Celery's own
fields take of that."""
_SEARCHED_OUTPUT_BYTES = 1_048_576
"""Results up to this size are read for what a path selects in them."""
_OUTPUT_ITEMS = 1000
"""Items of a map that are read to be shown as one list."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Outputs as far as they are known."""

    values: tuple[OutputValue, ...] = ()
    fetch: tuple[Fetch, ...] = ()
    problems: tuple[str, ...] = ()


def outputs(draft: RunDraft, renderer: Renderer, *, succeeded: bool) -> Shown:
    """Return the outputs of a run that has succeeded (none of one that has not), or what to fetch for them first."""
    if not succeeded:
        return Shown()
    reader = _OutputReader(draft, renderer)
    for output in draft.graph.outputs:
        reader.ask(output.value)
    if reader.fetches:
        return Shown(fetch=tuple(reader.fetches.values()))
    values: list[OutputValue] = []
    problems: list[str] = []
    left = OUTPUT_BYTES
    for output in draft.graph.outputs:
        try:
            value = reader.read(output.value)
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            size = len(text.encode())
            if size <= left:
                left -= size
                values.append(OutputValue(name=output.name, value=value))
                continue
        except _TooLargeError:
            pass
        except (ValueUnavailableError, ValueError, RecursionError) as error:  # NaN and half characters are no JSON
            problems.append(f"output {output.name!r}: {error}")
            continue
        values.append(OutputValue(name=output.name, reference=reader.reference(output.value)))
    return Shown(tuple(values), problems=tuple(problems))


class _TooLargeError(Exception):
    """The value is not read: it would not fit."""


class _OutputReader:
    def __init__(self, draft: RunDraft, renderer: Renderer) -> None:
        self._draft = draft
        self._renderer = renderer
        self.fetches: dict[str, Fetch] = {}

    def ask(self, expression: Expression) -> None:
        """Note what has to be fetched to show an output."""
        match expression:
            case ResultList(elements):
                for element in elements:
                    self.ask(element)
            case StepResult():
                try:
                    fetch = self._fetch(expression)
                except (ValueUnavailableError, _TooLargeError):
                    return
                if fetch is not None:
                    self.fetches[fetch.key] = fetch
            case _:
                return

    def _fetch(self, result: StepResult) -> Fetch | None:
        index = self._renderer.position(result)
        step = self._draft.look(result.step)
        items = step.items or b""
        key = value_key(result.step, index)
        if key in self._draft.values or (index is not None and items[index] == Code.FAILED):
            return None
        if key in self._draft.unreadable:
            raise ValueUnavailableError("ResultUnavailable", f"cannot be read: {self._draft.unreadable[key]}")
        many = index is None and self._draft.graph.by_name[result.step].kind == "Map"
        if many and len(items) > _OUTPUT_ITEMS:
            raise _TooLargeError
        if step.size > (_STORED_OUTPUT_BYTES if many or result.path == WHOLE else _SEARCHED_OUTPUT_BYTES):
            raise _TooLargeError
        if many:
            ids = tuple(
                None if items[at] == Code.FAILED else self._renderer.task_id(result.step, at)
                for at in range(len(items))
            )
            return Fetch(key, ids, many=True) if ids else None
        return Fetch(key, (self._renderer.task_id(result.step, len(items) - 1 if index is None else index),))

    def read(self, expression: Expression) -> Any:
        """Return an output's value. Raises ValueUnavailableError, PathError, _TooLargeError."""
        match expression:
            case ResultList(elements):
                return [self.read(element) for element in elements]
            case StepResult():
                self._fetch(expression)
                index = self._renderer.position(expression)
                items = self._draft.look(expression.step).items or b""
                if index is not None and items[index] == Code.FAILED:
                    return select(None, expression.path)
                if not items:
                    return []
                return select(self._draft.values[value_key(expression.step, index)], expression.path)
            case _:
                raise ValueUnavailableError("ResultUnavailable", "it is no result")

    def reference(self, expression: Expression) -> OutputReference:
        """Return where an output can be found."""
        if isinstance(expression, StepResult):
            index = self._renderer.position(expression)
            if index is None and self._draft.graph.by_name[expression.step].kind == "Map":
                return OutputReference(step=expression.step)
            items = self._draft.look(expression.step).items or b""
            last = len(items) - 1 if index is None else index
            return OutputReference(step=expression.step, task_id=self._renderer.task_id(expression.step, last))
        names = _step_names(expression)
        text = ",".join(names)
        return OutputReference(step=text if len(text) <= 63 else f"{names[0][:30]}..{names[-1][:30]}")


def _step_names(expression: Expression) -> list[str]:
    match expression:
        case StepResult(step):
            return [step]
        case ResultList(elements):
            return [name for element in elements for name in _step_names(element)]
        case _:
            return []


def finish(draft: RunDraft, policy: RunPolicy, shown: Shown) -> Finish:
    """Return how a run has ended whose steps have all ended."""
    if draft.deadline_exceeded:
        looks = [draft.look(name) for name in draft.graph.by_name]
        total = sum(_task_count(step) for step in looks)
        succeeded = sum(step.counts[Code.SUCCEEDED] for step in looks)
        seconds = policy.active_deadline_seconds
        return Finish(
            succeeded=False,
            reason=Reason.DEADLINE_EXCEEDED,
            message=f"activeDeadlineSeconds ({seconds}) passed when {succeeded} of {total} tasks had succeeded",
        )
    for node in draft.graph.nodes:
        step = draft.look(node.name)
        if step.phase == "Failed" and not node.allow_failure:
            return Finish(succeeded=False, reason=failure_reason(node, step), message=failure_message(node, step))
    return _success(draft, shown)


def _success(draft: RunDraft, shown: Shown) -> Finish:
    looks = {name: draft.look(name) for name in draft.graph.by_name}
    failed = sum(step.counts[Code.FAILED] for step in looks.values())
    failed_steps = sorted(name for name, step in looks.items() if step.phase == "Failed")
    succeeded = sum(step.counts[Code.SUCCEEDED] for step in looks.values())
    message = "1 task succeeded" if succeeded == 1 else f"{succeeded} tasks succeeded"
    if failed or failed_steps:
        reason = Reason.COMPLETED_WITH_FAILURES
        message += f"; {failed} failed as the spec allows"
        if failed_steps:
            message += f" (steps {', '.join(failed_steps)})"
    else:
        reason = Reason.COMPLETED
    return Finish(succeeded=True, reason=reason, message="; ".join([message, *shown.problems]), outputs=shown.values)


def _task_count(step: StepState | StepDraft) -> int:
    return 1 if step.items is None else len(step.items)


def failure_reason(node: Node, step: StepState | StepDraft) -> Reason:
    """Return the reason for which a failed step fails the run."""
    failed = step.counts[Code.FAILED]
    if step.error is not None or not failed:
        return Reason.TASK_FAILED
    if step.lost == failed:
        return Reason.TASKS_LOST
    return Reason.TOO_MANY_ITEMS_FAILED if node.kind == "Map" else Reason.TASK_FAILED


def failure_message(node: Node, step: StepState | StepDraft) -> str:
    """Say why a step has failed: its name, and of fan-outs how many items and the first of them."""
    if step.error is not None:
        return f"step {node.name!r} failed: {step.error}"
    cause = step.cause
    if cause is None:
        return f"step {node.name!r} failed"
    what = f"{cause.exception}: {cause.message}" if cause.message else cause.exception
    attempts = "" if cause.attempt == 1 else f" (attempt {cause.attempt})"
    if node.kind == "Task":
        return f"step {node.name!r} failed{attempts}: {what}"
    if node.kind == "Reduce":
        return f"step {node.name!r} failed: call {cause.index}{attempts}: {what}"
    count = len(step.items or b"")
    failed = f"{step.counts[Code.FAILED]} of {count} items failed, {node.max_failed} allowed"
    return f"step {node.name!r}: {failed}; item {cause.index}{attempts}: {what}"
