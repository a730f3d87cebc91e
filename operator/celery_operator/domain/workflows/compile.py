"""Turns a spec into a graph, or says what is wrong with it, naming the field.

It checks everything itself, also what the API server's rules refuse: local mode has no API server.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from celery_operator.api.conditions import Reason
from celery_operator.api.task import ResultOf
from celery_operator.api.workflow import MAX_ITEMS, WORK, Dag, Items, Output, Range, Reduce, WorkflowSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.workflows.arguments import CallCompiler, Results, TaskScope
from celery_operator.domain.workflows.check import Literals, invalid, one_of, unknown_step
from celery_operator.domain.workflows.graph import (
    After,
    Expression,
    Graph,
    GraphOutput,
    ItemList,
    ItemRange,
    ItemsOf,
    Node,
    ResultList,
    StepResult,
)
from celery_operator.domain.workflows.graph import Items as GraphItems
from celery_operator.domain.workflows.settle import MAX_TASKS
from celery_operator.domain.workflows.state import item_count
from celery_operator.domain.workflows.sugar import Unfolder, WrittenStep

MAX_NODES = 1000
"""Steps of one graph: what status can show and one plan can walk through in a millisecond."""


def compile_workflow(spec: WorkflowSpec) -> Graph:
    """Return the graph of a spec.

    Raises SpecError: InvalidSpec, CycleDetected (naming the steps in order) or UnknownStep (a step that does not exist,
    or does not run before); the message begins with the field's path.
    """
    one_of("spec", spec, ("app_ref", "app"))
    one_of("spec", spec, WORK_FIELDS)
    literals = Literals()
    parameters = _parameters(spec, literals)
    steps, result, composites = _written(spec)
    _check_names(steps, composites)
    ordered = steps if spec.dag is None else _ordered(steps)  # sugar unfolds in order
    results = Results({step.name: step.kind for step in steps}, composites)
    calls = CallCompiler(spec.task_defaults, frozenset(parameters), results, literals)
    compiler = _Compiler(calls, results, literals, Upstream(ordered))
    graph = Graph(tuple(compiler.node(step) for step in ordered), parameters, _outputs(spec.outputs, result, results))
    _check_size(graph)
    return graph


WORK_FIELDS = tuple("map_reduce" if name == "mapReduce" else name for name in WORK)


def _parameters(spec: WorkflowSpec, literals: Literals) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for number, parameter in enumerate(spec.parameters):
        path = f"spec.parameters[{number}]"
        if parameter.name in parameters:
            raise invalid(f"{path}.name", f"the parameter {parameter.name!r} is there twice: names must be unique")
        if "value" not in parameter.model_fields_set:
            raise invalid(path, f"the parameter {parameter.name!r} has no value: set value (null is one)")
        parameters[parameter.name] = literals.take(f"{path}.value", parameter.value)
    return parameters


# ------------------------------------------------------------------------------------------------------------- steps


def _written(spec: WorkflowSpec) -> tuple[list[WrittenStep], Expression | None, Mapping[str, Expression]]:
    if spec.dag is not None:
        return _dag_steps(spec.dag), None, {}
    unfolder = Unfolder()
    result = unfolder.work(spec)
    return unfolder.steps, result, unfolder.composites


def _dag_steps(dag: Dag) -> list[WrittenStep]:
    names = {step.name for step in dag.steps}
    steps: list[WrittenStep] = []
    for number, step in enumerate(dag.steps):
        path = f"spec.dag.steps[{number}]"
        one_of(path, step, ("task", "map", "reduce"))
        seen: set[str] = set()
        for position, dependency in enumerate(step.depends_on):
            where = f"{path}.dependsOn[{position}].step"
            if dependency.step not in names:
                raise unknown_step(where, dependency.step, names)
            if dependency.step in seen:
                raise invalid(where, f"the step {dependency.step!r} is there twice: name each step once")
            seen.add(dependency.step)
        steps.append(
            WrittenStep(
                name=step.name,
                path=path,
                task=step.task,
                map=step.map,
                reduce=step.reduce,
                after=tuple(After(each.step, each.condition) for each in step.depends_on),
                allow_failure=step.allow_failure,
            )
        )
    return steps


def _check_names(steps: Sequence[WrittenStep], composites: Mapping[str, Expression]) -> None:
    if len(steps) > MAX_NODES:
        raise invalid("spec", f"{len(steps)} steps; a workflow may have {MAX_NODES}: use items for larger fan-outs")
    seen: dict[str, str] = dict.fromkeys(composites, "a group, chain or chord")
    for step in steps:
        if step.name in seen:
            raise invalid(
                step.path,
                f"the step's name {step.name!r} is also that of {seen[step.name]}: give one of them another name",
            )
        if len(step.name) > 63:
            raise invalid(step.path, f"the step's name {step.name!r} has over 63 characters: give it a shorter one")
        seen[step.name] = step.path


def _ordered(steps: Sequence[WrittenStep]) -> list[WrittenStep]:
    """Return the steps in topological order; where several could be next, the one written first."""
    numbers = {step.name: number for number, step in enumerate(steps)}
    sorter = TopologicalSorter({step.name: [after.step for after in step.after] for step in steps})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        path = steps[numbers[error.args[1][0]]].path
        message = f"{path}.dependsOn: the steps wait for each other in a circle: {cycle}; remove one of these"
        raise SpecError(Reason.CYCLE_DETECTED, message) from error
    ready: list[int] = []
    ordered: list[WrittenStep] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, numbers[name])
        step = steps[heapq.heappop(ready)]
        ordered.append(step)
        sorter.done(step.name)
    return ordered


class Upstream:
    """Which steps run before which, as bits of integers: groups after groups have very many pairs."""

    def __init__(self, ordered: Sequence[WrittenStep]) -> None:
        self._bit = {step.name: 1 << number for number, step in enumerate(ordered)}
        self._masks: dict[str, int] = {}
        shared: dict[int, int] = {}
        for step in ordered:
            mask = shared.get(id(step.after))
            if mask is None:
                mask = 0
                for after in step.after:
                    mask |= self._bit[after.step] | self._masks[after.step]
                shared[id(step.after)] = mask
            self._masks[step.name] = mask

    def has(self, step: str, before: str) -> bool:
        """Whether ``before`` always ends before ``step`` begins."""
        return bool(self._masks[step] & self._bit[before])


class _Compiler:
    """Compiles written steps, one by one."""

    def __init__(self, calls: CallCompiler, results: Results, literals: Literals, upstream: Upstream) -> None:
        self._calls = calls
        self._results = results
        self._literals = literals
        self._upstream = upstream

    def node(self, step: WrittenStep) -> Node:
        """Return the node of a step."""
        if step.map is not None:
            node = self._map(step)
        elif step.reduce is not None:
            node = self._reduce(step, step.reduce)
        else:
            node = self._task(step)
        return node

    def _scope(self, step: WrittenStep, *, item: bool = False) -> TaskScope:
        return TaskScope(
            step.name, step.previous, passes_previous=step.passes_previous, item=item, uses=self._uses(step)
        )

    def _uses(self, step: WrittenStep) -> UseCheck:
        return UseCheck(step, self._upstream)

    def _task(self, step: WrittenStep) -> Node:
        if step.task is None:
            raise invalid(step.path, "it has neither task, map nor reduce")
        call = self._calls.call(step.task, f"{step.path}.{step.task_field}", self._scope(step))
        return Node(step.name, "Task", call, step.after, allow_failure=step.allow_failure)

    def _map(self, step: WrittenStep) -> Node:
        if step.map is None:
            raise invalid(step.path, "it has no map")
        path = step.path if step.inline else f"{step.path}.map"
        return Node(
            step.name,
            "Map",
            self._calls.call(step.map.task, f"{path}.{step.task_field}", self._scope(step, item=True)),
            step.after,
            allow_failure=step.allow_failure,
            items=self._items(step.map.items, f"{path}.items", step),
            parallelism=step.map.parallelism,
            max_failed=step.map.max_failed,
        )

    def _items(self, items: Items, path: str, step: WrittenStep) -> GraphItems:
        one_of(path, items, ("values", "range", "result_of"))
        if items.values is not None:
            taken = (self._literals.take(f"{path}.list[{at}]", value) for at, value in enumerate(items.values))
            return ItemList(tuple(taken))
        if items.range is not None:
            return _range(items.range, f"{path}.range")
        source = self._results.of(_result_of(items), f"{path}.resultOf")
        self._uses(step).check(source, f"{path}.resultOf.step")
        return ItemsOf(source)

    def _reduce(self, step: WrittenStep, reduce: Reduce) -> Node:
        path = step.path if step.inline else f"{step.path}.reduce"
        kinds = self._results.kinds
        if reduce.source not in kinds:
            raise unknown_step(f"{path}.from", reduce.source, kinds)
        if kinds[reduce.source] != "Map":
            raise invalid(f"{path}.from", f"the step {reduce.source!r} is no map: a reduce joins the results of a map")
        self._uses(step).check(StepResult(reduce.source), f"{path}.from")
        scope = self._scope(step)
        combine = reduce.combine
        return Node(
            step.name,
            "Reduce",
            self._calls.call(reduce.task, f"{path}.{step.task_field}", scope),
            step.after,
            allow_failure=step.allow_failure,
            source=reduce.source,
            combine=None if combine is None else self._calls.call(combine, f"{path}.combine", scope),
            fan_in=None if combine is None else reduce.fan_in,
        )


class UseCheck:
    """Whether a step may use another's result: it has to run before, and can have succeeded."""

    def __init__(self, step: WrittenStep, upstream: Upstream) -> None:
        self._step = step
        self._upstream = upstream

    def check(self, expression: Expression, path: str) -> None:
        """Raise SpecError if a step in the expression does not run before this one, or has failed when it runs."""
        match expression:
            case ResultList(elements):
                for element in elements:
                    self.check(element, path)
            case StepResult(name):
                if not self._upstream.has(self._step.name, name):
                    raise SpecError(
                        Reason.UNKNOWN_STEP,
                        f"{path}: the step {name!r} does not run before {self._step.name!r}: "
                        "name it in dependsOn, or use a step that runs before",
                    )
                if After(name, "Failed") in self._step.after:
                    raise invalid(path, f"the step {name!r} has no result when dependsOn wants it to have failed")
            case _:
                return


def _range(written: Range, path: str) -> ItemRange:
    if written.step == 0:
        raise invalid(f"{path}.step", "must not be 0")
    items = ItemRange(written.start, written.end, written.step)
    if items.count > MAX_ITEMS:
        raise invalid(path, f"has {items.count} items; a map may have {MAX_ITEMS}")
    return items


def _result_of(items: Items) -> ResultOf:
    if items.result_of is None:
        raise ValueError("checked before: one of the three is set")
    return items.result_of


# --------------------------------------------------------------------------------------------- outputs and the whole


def _outputs(written: Sequence[Output], result: Expression | None, results: Results) -> tuple[GraphOutput, ...]:
    outputs: list[GraphOutput] = []
    for number, output in enumerate(written):
        path = f"spec.outputs[{number}]"
        if any(other.name == output.name for other in outputs):
            raise invalid(f"{path}.name", f"the output {output.name!r} is there twice: names must be unique")
        source = output.value_from
        one_of(f"{path}.valueFrom", source, ("result", "result_of"))
        if source.result_of is not None:
            outputs.append(GraphOutput(output.name, results.of(source.result_of, f"{path}.valueFrom.resultOf")))
        elif result is None:
            raise invalid(f"{path}.valueFrom.result", "a dag has no single result: use resultOf and name a step")
        else:
            where = f"{path}.valueFrom.result"
            outputs.append(GraphOutput(output.name, results.follow(result, source.result or "$", where)))
    return tuple(outputs)


def _check_size(graph: Graph) -> None:
    counts: dict[str, int | None] = {}
    for node in graph.nodes:
        counts[node.name] = item_count(graph, node, counts)
    total = sum(count or 0 for count in counts.values())
    if total > MAX_TASKS:
        raise invalid("spec", f"has {total} tasks; one workflow may have {MAX_TASKS}: split it")
