"""Values of arguments: inline where they are known here and small, else by reference, for the worker to read."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from celery_operator.domain.workflows.draft import RunDraft
from celery_operator.domain.workflows.graph import (
    Call,
    Expression,
    ItemList,
    ItemRange,
    ItemsOf,
    ItemValue,
    LiteralValue,
    Node,
    ParameterValue,
    ResultList,
    StepResult,
)
from celery_operator.domain.workflows.plan import Fetch
from celery_operator.domain.workflows.state import Code, positions
from celery_patterns.jsonpath import WHOLE, PathError, describe, join, select
from celery_patterns.protocol import INLINE_VALUE_BYTES, REFERENCE_KEY, ResultReference


class ValueUnavailableError(Exception):
    """A value that a call needs will never be there. ``exception`` names the kind, as a task's exception would."""

    def __init__(self, exception: str, message: str) -> None:
        super().__init__(message)
        self.exception = exception
        self.message = message


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a map: its value if it is known here, and where a worker can read it."""

    value: Any = None
    known: bool = True
    source: StepResult | ResultList | None = None
    """None: it stands in the spec, so it always travels inline."""


class Budget:
    """How much of a message may still be filled with results, and whether references were needed."""

    __slots__ = ("inline", "left")

    def __init__(self, left: int = INLINE_VALUE_BYTES, *, inline: bool = True) -> None:
        self.left = left
        self.inline = inline

    def admit(self, value: Any) -> bool:
        """Take a value in if it is small enough, and cannot be mistaken for a reference."""
        if value is None or isinstance(value, (bool, int)):
            size = len(repr(value))
        elif isinstance(value, (str, list, dict)) and len(value) > self.left:
            return False
        else:
            try:
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            except RecursionError:
                return False
            size = len(text.encode(errors="surrogatepass"))
            if REFERENCE_KEY in text:
                return False
        if size > self.left:
            return False
        self.left -= size
        return True


def is_small(value: Any) -> bool:
    """Whether a result may be kept in memory and travel in arguments."""
    return Budget().admit(value)


def value_key(step: str, index: int | None = None) -> str:
    """Return the key of a result in ``RunState.values``, ``Fetch.key`` and ``Observed.values``."""
    return step if index is None else f"{step}[{index}]"


Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any], bool]
"""args, kwargs, and whether all are values (nothing is left to read for the worker)."""


class Renderer:
    """Turns the expressions of calls into what stands in messages, as the run is now."""

    def __init__(self, draft: RunDraft) -> None:
        self._draft = draft
        self._again: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}

    # ------------------------------------------------------------------------------------------------------- calls

    def caller(self, node: Node, call: Call) -> Callable[[Item | None, Any], Arguments]:
        """Return what makes the arguments of one message.

        It takes the item of a map, or None, and a reduce's list, or None. What does not depend on the item is rendered
        here, once. Raises ValueUnavailableError, here for what all messages need, there for what one item lacks.
        """
        shared = Budget()
        args = [(each, None if _uses_item(each) else self.render(each, shared)) for each in call.args]
        kwargs = [(name, each, None if _uses_item(each) else self.render(each, shared)) for name, each in call.kwargs]
        is_reduce = node.kind == "Reduce"

        def arguments(item: Item | None, joined: Any) -> Arguments:
            budget = Budget(shared.left, inline=shared.inline)
            positional = [self.render(each, budget, item) if _uses_item(each) else rendered for each, rendered in args]
            named = {
                name: self.render(each, budget, item) if _uses_item(each) else rendered
                for name, each, rendered in kwargs
            }
            if is_reduce:
                positional.insert(0, joined)
            return tuple(positional), named, budget.inline and (not is_reduce or joined == [])

        return arguments

    def render(self, expression: Expression, budget: Budget, item: Item | None = None) -> Any:
        """Return one argument. Raises ValueUnavailableError."""
        match expression:
            case LiteralValue(value):
                return value
            case ParameterValue(name):
                return self._draft.graph.parameters[name]
            case ResultList(elements):
                return [self.render(element, budget, item) for element in elements]
            case StepResult():
                return self._result(expression, budget)
            case ItemValue(path):
                return self._item(item or Item(), path, budget)

    def _item(self, item: Item, path: str, budget: Budget) -> Any:
        if item.known:
            value = _select(item.value, path, "the item")
            if item.source is None or budget.admit(value):
                return value
        if isinstance(item.source, StepResult):
            return self._result(StepResult(item.source.step, join(item.source.path, path), item.source.index), budget)
        if item.source is not None and path == WHOLE:
            return self.render(item.source, budget)
        raise ValueUnavailableError("PathNotFound", f"the path {path!r} must begin with an index: the item is a list")

    # ----------------------------------------------------------------------------------------------------- results

    def _result(self, result: StepResult, budget: Budget) -> Any:
        index = self.position(result)
        what = f"the result of step {result.step!r}"
        if index is not None and self._draft.look(result.step).items[index] == Code.FAILED:  # type: ignore[index]
            return _select(None, result.path, f"{what}, item {index}")
        key = value_key(result.step, index)
        if key in self._draft.values:
            value = _select(self._draft.values[key], result.path, what)
            if budget.admit(value):
                return value
        budget.inline = False
        return self.reference(result).to_json()

    def position(self, result: StepResult) -> int | None:
        """Return which item of a map is meant; None: the whole result. Raises ValueUnavailableError without it."""
        step = self._draft.look(result.step)
        if step.phase != "Succeeded" or step.items is None:
            raise ValueUnavailableError(
                "ResultUnavailable", f"the result of step {result.step!r} is not there: it is {step.phase}"
            )
        if result.index is None:
            return None
        count = len(step.items)
        if not -count <= result.index < count:
            raise ValueUnavailableError(
                "PathNotFound",
                f"the result of step {result.step!r} is a list of {count} and has no element {result.index}",
            )
        return result.index % count

    def reference(self, result: StepResult) -> ResultReference:
        """Return the reference to a result."""
        index = self.position(result)
        count = len(self._draft.look(result.step).items or b"")
        if index is None and self._draft.graph.by_name[result.step].kind == "Map":
            return self.slice_of(result.step, 0, count)
        index = count - 1 if index is None else index  # a reduce's result is its last call's
        reference = self.slice_of(result.step, index, index + 1)
        return ResultReference(
            reference.uid,
            reference.run,
            reference.step,
            start=index,
            attempts=reference.attempts,
            path=None if result.path == WHOLE else result.path,
        )

    def slice_of(self, step: str, start: int, stop: int) -> ResultReference:
        """Return the reference to the list of these items' results."""
        state = self._draft.look(step)
        missing: tuple[int, ...] = ()
        if state.counts[Code.FAILED] and state.items is not None:
            missing = tuple(positions(state.items, Code.FAILED, start, stop))
        if not state.attempts:
            again: tuple[tuple[int, int], ...] = ()
        else:
            if step not in self._again:
                pairs = sorted(state.attempts.items())
                self._again[step] = ([index for index, _ in pairs], pairs)
            indexes, pairs = self._again[step]
            gone = set(missing)
            between = pairs[bisect_left(indexes, start) : bisect_left(indexes, stop)]
            again = tuple(pair for pair in between if pair[0] not in gone)
        return ResultReference(
            self._draft.uid, self._draft.run, step, start=start, stop=stop, attempts=again, missing=missing
        )

    def task_id(self, step: str, index: int) -> str:
        """Return the id of an item's last attempt."""
        return self._draft.task_id(step, index, self._draft.look(step).attempt(index))

    # ------------------------------------------------------------------------------------------------------- items

    def needed(self, items: ItemsOf) -> Fetch | None:
        """Return what has to be fetched before these items can be counted and published; None: nothing.

        Raises ValueUnavailableError if it cannot be had.
        """
        source = items.source
        if isinstance(source, ResultList):
            return None
        index = self.position(source)
        kind = self._draft.graph.by_name[source.step].kind
        if kind == "Map" and index is None:
            return None
        return self._fetch_one(source.step, index)

    def _fetch_one(self, step: str, index: int | None) -> Fetch | None:
        state = self._draft.look(step)
        if index is not None and state.items is not None and state.items[index] == Code.FAILED:
            return None
        key = value_key(step, index)
        if key in self._draft.values:
            return None
        if key in self._draft.unreadable:
            raise ValueUnavailableError(
                "ResultUnavailable", f"the result of step {step!r} cannot be read: {self._draft.unreadable[key]}"
            )
        last = len(state.items or b"") - 1 if index is None else index
        return Fetch(key, (self.task_id(step, last),))

    def items_known(self, source: StepResult) -> list[Any]:
        """Return the list that a known result holds. Raises ValueUnavailableError if it is none."""
        index = self.position(source)
        failed = index is not None and self._draft.look(source.step).items[index] == Code.FAILED  # type: ignore[index]
        what = f"the result of step {source.step!r}"
        value = _select(None if failed else self._draft.values[value_key(source.step, index)], source.path, what)
        if not isinstance(value, list):
            where = "" if source.path == WHOLE else f" at {source.path}"
            raise ValueUnavailableError(
                "NotAList", f"items must be a list, but the result of step {source.step!r}{where} is {describe(value)}"
            )
        return value

    def item_reader(self, node: Node) -> Callable[[int], Item]:
        """Return what gives a map's item by its index; what is fetched must be there."""
        match node.items:
            case ItemList(values):
                return lambda index: Item(values[index])
            case ItemRange(start, _, step):
                return lambda index: Item(start + index * step)
            case ItemsOf(source):
                if isinstance(source, ResultList):
                    elements = source.elements
                    return lambda index: _element_item(elements[index])
                return self._result_items(node, source)
            case None:
                raise ValueError(f"step {node.name!r} has no items")

    def _result_items(self, node: Node, source: StepResult) -> Callable[[int], Item]:
        if self._draft.graph.by_name[source.step].kind == "Map" and source.index is None:
            return lambda index: Item(known=False, source=StepResult(source.step, index=index))
        known = self._draft.lists.get(node.name)
        values = self.items_known(source) if known is None else known
        return lambda index: Item(
            values[index], source=StepResult(source.step, f"{source.path}[{index}]", source.index)
        )


def _element_item(element: Expression) -> Item:
    if isinstance(element, (StepResult, ResultList)):
        return Item(known=False, source=element)
    raise ValueError(f"a group's result is made of results, not of {element!r}")


def _uses_item(expression: Expression) -> bool:
    return isinstance(expression, ItemValue)


def _select(value: Any, path: str, what: str) -> Any:
    try:
        return select(value, path)
    except PathError as error:
        raise ValueUnavailableError("PathNotFound", f"{what}: {error}") from error
