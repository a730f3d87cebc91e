"""Compiles tasks: arguments to expressions, options against the workflow's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from celery_operator.api.task import Argument, ResultOf, Retry, Task, TaskOptions, ValueSource
from celery_operator.domain.messages import DEFAULT_QUEUE
from celery_operator.domain.workflows.check import Literals, invalid, one_of, unknown_step
from celery_operator.domain.workflows.graph import (
    Call,
    Expression,
    ItemValue,
    Kind,
    LiteralValue,
    ParameterValue,
    ResultList,
    StepResult,
)
from celery_patterns.jsonpath import WHOLE, PathError, parse, to_text


class Uses(Protocol):
    """Says whether a step may use a result."""

    def check(self, expression: Expression, path: str) -> None:
        """Raise SpecError if not."""


@dataclass(frozen=True, slots=True)
class TaskScope:
    """What a task's arguments may refer to."""

    step: str
    previous: Expression | None
    """In a chain: the result of the element before."""
    passes_previous: bool
    """Whether that comes before ``args`` by itself."""
    item: bool
    """Whether it runs once for each item."""
    uses: Uses


class Results:
    """What the names of steps, and of groups, chains and chords, stand for."""

    def __init__(self, kinds: Mapping[str, Kind], composites: Mapping[str, Expression]) -> None:
        self.kinds = kinds
        self._composites = composites

    def of(self, written: ResultOf, path: str) -> StepResult | ResultList:
        """Return the expression of a ``resultOf``. Raises SpecError."""
        name = written.step
        named = self._composites.get(name)
        if named is None and name not in self.kinds:
            raise unknown_step(f"{path}.step", name, [*self.kinds, *self._composites])
        found = self.follow(named or StepResult(name), written.path or WHOLE, f"{path}.path")
        if not isinstance(found, (StepResult, ResultList)):
            raise invalid(path, "does not name a result")
        return found

    def follow(self, expression: Expression, further: str, path: str) -> Expression:
        """Return what a path selects in a result that is not known yet. Raises SpecError."""
        try:
            segments = parse(further)
        except PathError as error:
            raise invalid(path, str(error)) from error
        if not segments:
            return expression
        first = segments[0]
        match expression:
            case ResultList(elements):
                if not isinstance(first, int) or not -len(elements) <= first < len(elements):
                    raise invalid(path, f"the result is a list of {len(elements)}: begin with an index in it, as $[0]")
                return self.follow(elements[first], to_text(segments[1:]), path)
            case StepResult(step, _, None) if self.kinds[step] == "Map":
                if not isinstance(first, int):
                    raise invalid(path, f"the result of the map {step!r} is a list: begin with an index, as $[0]")
                return StepResult(step, to_text(segments[1:]), first)
            case StepResult(step, before, index):
                return StepResult(step, to_text((*parse(before), *segments)), index)
            case _:
                raise invalid(path, "has no result to select from")


class CallCompiler:
    """Compiles the tasks of one spec."""

    def __init__(self, defaults: TaskOptions, parameters: frozenset[str], results: Results, literals: Literals) -> None:
        self._defaults = defaults
        self._parameters = parameters
        self._results = results
        self._literals = literals

    def call(self, task: Task, path: str, scope: TaskScope) -> Call:
        """Return the call of a task. Raises SpecError."""
        args = [self._argument(arg, f"{path}.args[{number}]", scope) for number, arg in enumerate(task.args)]
        kwargs: dict[str, Expression] = {}
        for number, arg in enumerate(task.kwargs):
            where = f"{path}.kwargs[{number}]"
            if arg.name in kwargs:
                raise invalid(f"{where}.name", f"the argument {arg.name!r} is there twice: names must be unique")
            kwargs[arg.name] = self._argument(arg, where, scope)
        if scope.item and not args and not kwargs:
            args = [ItemValue()]
        if scope.passes_previous and scope.previous is not None and not task.immutable and not _names_previous(task):
            args.insert(0, scope.previous)
        return self._options(task, path, tuple(args), tuple(kwargs.items()))

    def _options(
        self, task: Task, path: str, args: tuple[Expression, ...], kwargs: tuple[tuple[str, Expression], ...]
    ) -> Call:
        defaults = self._defaults
        retry = task.retry or defaults.retry or Retry()
        backoff = retry.backoff
        if backoff.initial_seconds > backoff.max_seconds:
            raise invalid(
                f"{path if task.retry else 'spec.taskDefaults'}.retry.backoff",
                f"initialSeconds ({backoff.initial_seconds}) must not exceed maxSeconds ({backoff.max_seconds})",
            )
        hard = task.time_limit_seconds or defaults.time_limit_seconds
        soft = task.soft_time_limit_seconds or defaults.soft_time_limit_seconds
        if hard is not None and soft is not None and soft >= hard:
            raise invalid(
                path,
                f"softTimeLimitSeconds ({soft}) must be less than timeLimitSeconds ({hard}), taskDefaults included",
            )
        return Call(
            task=task.name,
            args=args,
            kwargs=kwargs,
            queue=task.queue or defaults.queue or DEFAULT_QUEUE,
            time_limit=hard,
            soft_time_limit=soft,
            lost_after=task.lost_after_seconds or defaults.lost_after_seconds,
            retry=retry,
        )

    def _argument(self, argument: Argument, path: str, scope: TaskScope) -> Expression:
        has_value = "value" in argument.model_fields_set  # null is a value too
        source = argument.value_from
        if has_value == (source is not None):
            found = "both" if has_value else "none"
            raise invalid(path, f"set exactly one of value and valueFrom; found {found}")
        if source is None:
            return LiteralValue(self._literals.take(f"{path}.value", argument.value))
        return self._source(source, f"{path}.valueFrom", scope)

    def _source(self, source: ValueSource, path: str, scope: TaskScope) -> Expression:
        one_of(path, source, ("parameter", "item", "result_of", "previous_result"))
        if source.parameter is not None:
            if source.parameter not in self._parameters:
                raise invalid(f"{path}.parameter", f"there is no parameter {source.parameter!r} in spec.parameters")
            return ParameterValue(source.parameter)
        if source.item is not None:
            return self._item(source.item, f"{path}.item", scope)
        if source.result_of is not None:
            result = self._results.of(source.result_of, f"{path}.resultOf")
            scope.uses.check(result, f"{path}.resultOf.step")
            return result
        if scope.previous is None:
            raise invalid(
                f"{path}.previousResult", "there is no element before: use it in a chain, after the first one"
            )
        return self._results.follow(scope.previous, source.previous_result or WHOLE, f"{path}.previousResult")

    @staticmethod
    def _item(written: str, path: str, scope: TaskScope) -> Expression:
        if not scope.item:
            raise invalid(path, "there is no item here: only the task of a map has one")
        try:
            return ItemValue(to_text(parse(written)))
        except PathError as error:
            raise invalid(path, str(error)) from error


def _names_previous(task: Task) -> bool:
    return any(
        arg.value_from is not None and arg.value_from.previous_result is not None for arg in (*task.args, *task.kwargs)
    )
