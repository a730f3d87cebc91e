"""Begins the steps whose time has come, ends those that are through, and gives up what is no longer wanted."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from celery_operator.api.workflow import MAX_ITEMS, RunPolicy
from celery_operator.domain.workflows.draft import RunDraft, StepDraft
from celery_operator.domain.workflows.graph import After, ItemsOf, Node, ResultList, StepResult
from celery_operator.domain.workflows.plan import Fetch
from celery_operator.domain.workflows.state import Code, StepState, positions
from celery_operator.domain.workflows.values import Renderer, ValueUnavailableError

Verdict = Literal["ready", "wait", "never"]

MAX_TASKS = 2_000_000
"""Tasks of one run: the packed states of so many still fit into one ConfigMap (1 MiB)."""


class Settler:
    """Walks through the steps in topological order, so that one walk sees all its own consequences."""

    def __init__(self, draft: RunDraft, policy: RunPolicy, *, now: datetime, suspended: bool) -> None:
        self._draft = draft
        self._fail_fast = policy.failure_policy == "FailFast"
        self._now = now
        self._suspended = suspended
        self._fetches: dict[str, Fetch] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._affected: set[str] = set()
        self._handlers: set[str] = set()
        self.revoked: list[tuple[str, int]] = []
        """(step, index) of what was published and is given up."""
        self.done = False

    @property
    def fetch(self) -> tuple[Fetch, ...]:
        """Results without which maps cannot be published."""
        return tuple(self._fetches.values())

    @property
    def succeeded(self) -> bool:
        """Whether nothing stands against success, so far."""
        return not self._draft.deadline_exceeded and not self._failing()

    def settle(self) -> None:
        """Bring all steps to where they can be now."""
        failing = self._failing()
        while True:
            self._walk(cutting=failing and self._fail_fast)
            if failing or not self._failing():
                return
            failing = True  # a step failed on this walk; what was passed before has to hear of it

    def stop(self) -> None:
        """Give up everything: the deadline has passed."""
        self._draft.deadline_exceeded = True
        for node in self._draft.graph.nodes:
            if self._draft.look(node.name).final:
                continue
            step = self._draft.step(node.name)
            begun = step.phase == "Running" and (step.items is None or step.counts[Code.PENDING] < len(step.items))
            self._give_up(step, Code.PUBLISHED, Code.RUNNING)
            self._end(step, "Failed" if step.doomed else "Revoked" if begun else "Skipped")
        self._fetches.clear()
        self.done = True

    # ---------------------------------------------------------------------------------------------------- one walk

    def _failing(self) -> bool:
        return any(
            not node.allow_failure and _has_failed(node, self._draft.look(node.name))
            for node in self._draft.graph.nodes
        )

    def _walk(self, *, cutting: bool) -> None:
        self._fetches.clear()
        self._verdicts.clear()
        self._affected.clear()
        self._handlers.clear()
        self.done = True
        for node in self._draft.graph.nodes:
            name = node.name
            if cutting and self._handles_failure(node):
                self._handlers.add(name)
            step = self._draft.look(name)
            if not step.final:
                cut = cutting and name not in self._handlers
                if step.phase == "Pending":
                    self._pending(node, cut=cut)
                if self._draft.look(name).phase == "Running":
                    self._running(node, cut=cut)
                step = self._draft.look(name)
                self.done = self.done and step.final
            if cutting and (
                step.phase == "Failed"
                or (step.phase == "Skipped" and any(after.step in self._affected for after in node.after))
            ):
                self._affected.add(name)

    def _handles_failure(self, node: Node) -> bool:
        return any(
            after.step in self._handlers or (after.condition != "Succeeded" and after.step in self._affected)
            for after in node.after
        )

    def _pending(self, node: Node, *, cut: bool) -> None:
        verdict = self._verdict(node.after)
        if verdict == "never" or (verdict == "ready" and cut):
            step = self._draft.step(node.name)
            self._give_up(step, Code.PUBLISHED, Code.RUNNING)
            self._end(step, "Skipped")
        elif verdict == "ready" and not self._suspended:
            step = self._draft.step(node.name)
            step.start(self._now)
            self._check_inputs(node, step)

    def _verdict(self, afters: tuple[After, ...]) -> Verdict:
        # Members of a group share one tuple, and all that it names has been passed on this walk: judged once.
        known = self._verdicts.get(id(afters))
        if known is None:
            known = self._verdicts[id(afters)] = self._judge(afters)
        return known

    def _judge(self, afters: tuple[After, ...]) -> Verdict:
        waits = False
        for after in afters:
            step = self._draft.look(after.step)
            if not step.final:
                waits = True
            elif after.condition not in ("Finished", step.phase):
                return "never"
        return "wait" if waits else "ready"

    def _check_inputs(self, node: Node, step: StepDraft) -> None:
        needed: tuple[StepResult | ResultList, ...] = ()
        if isinstance(node.items, ItemsOf):
            needed = (node.items.source,)
        elif node.source is not None:
            needed = (StepResult(node.source),)
        renderer = Renderer(self._draft)
        try:
            for source in needed:
                for each in source.elements if isinstance(source, ResultList) else (source,):
                    if isinstance(each, StepResult):
                        renderer.position(each)
        except ValueUnavailableError as error:
            step.fail_whole(f"{error.exception}: {error.message}")

    def _running(self, node: Node, *, cut: bool) -> None:
        state = self._draft.look(node.name)
        if state.error is None and not cut:
            self._count(node, state)
        state = self._draft.look(node.name)
        # Items of a map do not need each other, and may go on; the calls of a reduce do.
        stops = self._fail_fast or node.kind != "Map"
        if cut or state.error is not None or (stops and state.counts[Code.FAILED] > node.max_failed):
            self._give_up(self._draft.step(node.name), Code.PUBLISHED)
        elif state.items is None:
            return
        step = self._draft.look(node.name)
        if step.active or step.counts[Code.PENDING] or step.counts[Code.WAITING]:
            return
        draft = self._draft.step(node.name)
        if draft.doomed:
            self._end(draft, "Failed")
        elif draft.items is None or draft.counts[Code.SKIPPED] or draft.counts[Code.REVOKED]:
            self._end(draft, "Revoked")
        else:
            self._end(draft, "Succeeded")

    def _end(self, step: StepDraft, phase: Literal["Succeeded", "Failed", "Skipped", "Revoked"]) -> None:
        step.end(phase, self._now)
        self._draft.drop_list(step.node.name)

    def _give_up(self, step: StepDraft, *codes: Code) -> None:
        step.skip_unpublished()
        for code in codes:
            if step.counts[code] and step.items is not None:
                for index in list(positions(step.items, code)):
                    step.set_code(index, Code.REVOKED)
                    self.revoked.append((step.node.name, index))

    # ---------------------------------------------------------------------------------------------------- counting

    def _count(self, node: Node, state: StepState | StepDraft) -> None:
        """Learn how many tasks a step has, and what a map runs over; ask for what that needs."""
        if node.kind == "Reduce" and state.items is None:
            values = len(self._draft.look(node.source or "").items or b"")
            self._allocate(node, node.tree(values).calls)
        if not isinstance(node.items, ItemsOf) or node.name in self._draft.lists:
            return
        if state.items is not None and not state.counts[Code.PENDING]:
            return
        source = node.items.source
        if isinstance(source, ResultList):
            return
        renderer = Renderer(self._draft)
        try:
            if self._draft.graph.by_name[source.step].kind == "Map" and source.index is None:
                if state.items is None:
                    self._allocate(node, len(self._draft.look(source.step).items or b""))
                return
            fetch = renderer.needed(node.items)
            if fetch is not None:
                self._fetches[fetch.key] = fetch
                return
            known = renderer.items_known(source)
        except ValueUnavailableError as error:
            self._draft.step(node.name).fail_whole(f"{error.exception}: {error.message}")
            return
        self._take_list(node, state, known)

    def _take_list(self, node: Node, state: StepState | StepDraft, values: list[object]) -> None:
        if state.items is None:
            self._allocate(node, len(values))
        elif len(values) != len(state.items):
            self._draft.step(node.name).fail_whole(
                f"ItemsChanged: the list had {len(state.items)} items when the step began and has {len(values)} now"
            )
        if self._draft.look(node.name).error is None:
            self._draft.keep_list(node.name, values)

    def _allocate(self, node: Node, count: int) -> None:
        step = self._draft.step(node.name)
        others = sum(len(self._draft.look(name).items or b"") for name in self._draft.graph.by_name)
        if node.kind == "Map" and count > MAX_ITEMS:
            step.fail_whole(f"TooManyItems: {count} items; a map may have {MAX_ITEMS}")
        elif others + count > MAX_TASKS:
            step.fail_whole(f"TooManyItems: with {count} more tasks the run has over {MAX_TASKS}; split the workflow")
        else:
            step.allocate(count)


def _has_failed(node: Node, step: StepState | StepDraft) -> bool:
    if step.phase == "Running":
        return step.error is not None or step.counts[Code.FAILED] > node.max_failed
    return step.phase == "Failed"
