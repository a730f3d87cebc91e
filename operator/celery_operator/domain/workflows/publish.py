"""Chooses what to publish now, within the bounds of run, step and plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from celery_operator.api.workflow import RunPolicy
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.draft import RunDraft, StepDraft
from celery_operator.domain.workflows.graph import ItemsOf, Node
from celery_operator.domain.workflows.outcomes import clean_text
from celery_operator.domain.workflows.state import Cause, Code, Failure
from celery_operator.domain.workflows.values import Arguments, Item, Renderer, ValueUnavailableError
from celery_patterns.protocol import MESSAGE_CHARACTERS, TaskIdentity

PLAN_MESSAGES = 500
"""Messages of one plan: a batch that a broker takes in well under the time in which results come back."""

_ORDER = {"Task": 0, "Reduce": 1, "Map": 2}
"""Single tasks go before wide fan-outs: they are what others wait for, and they need little of the window."""

Prepare = Callable[[StepDraft, int], TaskMessage | None]
"""Makes the message of an index; None: not yet, and neither for any index after it."""


class Publisher:
    """Collects the messages of one plan."""

    def __init__(self, draft: RunDraft, policy: RunPolicy, *, now: datetime) -> None:
        self._draft = draft
        self._parallelism = policy.parallelism
        self._now = now
        self._room = PLAN_MESSAGES
        self._messages: dict[tuple[str, int], TaskMessage] = {}
        self.more = False

    def publish(self) -> bool:
        """Publish what the bounds allow; True if a step or item failed for a value that is not there."""
        steps = [(node, self._draft.look(node.name)) for node in self._draft.graph.nodes]
        window = self._parallelism - sum(step.active for _, step in steps if not step.final)
        ready = [node for node, step in steps if step.phase == "Running" and step.counts[Code.PENDING]]
        failed = False
        self.more = False
        for node in sorted(ready, key=lambda node: _ORDER[node.kind]):
            step = self._draft.step(node.name)
            allowed = window if node.parallelism is None else min(window, node.parallelism - step.active)
            if step.error is not None or allowed <= 0:
                continue
            before = step.active
            failed = self._publish_step(node, step, min(allowed, self._room)) or failed
            sent = step.active - before
            window -= sent
            self.more = self.more or (self._room <= 0 and sent < allowed and step.counts[Code.PENDING] > 0)
        return failed

    def kept(self, revoked: Iterable[tuple[str, int]]) -> tuple[tuple[TaskMessage, ...], tuple[str, ...]]:
        """Return the messages to send and the ids to revoke; what was both chosen and given up here is neither."""
        ids: list[str] = []
        for name, index in revoked:
            step = self._draft.step(name)
            if self._messages.pop((name, index), None) is None:
                ids.append(self._draft.task_id(name, index, step.attempt(index)))
            else:
                step.set_code(index, Code.SKIPPED)
        return tuple(self._messages.values()), tuple(ids)

    # ---------------------------------------------------------------------------------------------------- one step

    def _publish_step(self, node: Node, step: StepDraft, limit: int) -> bool:
        renderer = Renderer(self._draft)
        try:
            if isinstance(node.items, ItemsOf) and node.name not in self._draft.lists and renderer.needed(node.items):
                return False
            prepare = self._preparing(node, renderer)
        except ValueUnavailableError as error:
            if node.kind == "Task":
                self._fail_item(step, 0, error)
            else:
                step.fail_whole(f"{error.exception}: {error.message}")
            return True
        return self._publish_items(step, limit, prepare)

    def _publish_items(self, step: StepDraft, limit: int, prepare: Prepare) -> bool:
        failed = False
        index = -1
        for _ in range(limit):
            index = (step.items or b"").find(Code.PENDING, index + 1)
            if index < 0:
                break
            try:
                message = prepare(step, index)
            except ValueUnavailableError as error:
                self._fail_item(step, index, error)
                self._room -= 1  # so that a wide map of bad items stays bounded too
                failed = True
                if step.doomed:
                    break
                continue
            if message is None:
                break
            self._messages[step.node.name, index] = message
            self._room -= 1
            step.set_code(index, Code.PUBLISHED)
        return failed

    def _preparing(self, node: Node, renderer: Renderer) -> Prepare:
        """Return what makes the messages of a step. Raises ValueUnavailableError if none of them can be made."""
        count = len(self._draft.look(node.name).items or b"")
        last = renderer.caller(node, node.call)
        if node.kind == "Task":
            return lambda step, index: self._message(step, index, count, last(None, None))
        if node.kind == "Map":
            read = renderer.item_reader(node)
            return lambda step, index: self._message(step, index, count, last(read(index), None))
        combine = last if node.combine is None else renderer.caller(node, node.combine)
        source = node.source or ""
        tree = node.tree(len(self._draft.look(source).items or b""))

        def prepare(step: StepDraft, index: int) -> TaskMessage | None:
            part = tree.slice_of(index)
            length = part.stop - part.start
            if not part.of_source and (step.items or b"").count(Code.SUCCEEDED, part.start, part.stop) < length:
                return None
            name = source if part.of_source else node.name
            joined = renderer.slice_of(name, part.start, part.stop).to_json() if length else []
            arguments = last if index == count - 1 else combine
            return self._message(step, index, count, arguments(Item(), joined))

        return prepare

    def _message(self, step: StepDraft, index: int, count: int, arguments: Arguments) -> TaskMessage:
        args, kwargs, inline = arguments
        call = step.node.call_of(index, count)
        identity = TaskIdentity(
            uid=self._draft.uid,
            run=self._draft.run,
            step=step.node.name,
            index=index,
            attempt=step.attempt(index),
            values_inline=inline,
        )
        return TaskMessage(
            identity=identity,
            task=call.task,
            args=args,
            kwargs=kwargs,
            queue=call.queue,
            time_limit=call.time_limit,
            soft_time_limit=call.soft_time_limit,
        ).resumed(step.resumption(index))

    def _fail_item(self, step: StepDraft, index: int, error: ValueUnavailableError) -> None:
        name, attempt = step.node.name, step.attempt(index)
        message = clean_text(error.message, MESSAGE_CHARACTERS)
        self._draft.record(Failure(name, index, attempt, error.exception, message, "", self._now))
        step.set_code(index, Code.FAILED)
        step.blame(Cause(index, attempt, error.exception, message))
