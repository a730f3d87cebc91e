"""Unfolds chain, group, chord and mapReduce into steps with dependencies, as they would be written in a dag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_operator.api.task import Task
from celery_operator.api.workflow import (
    Chord,
    Element,
    Inner,
    InnerChord,
    Leaf,
    LeafChord,
    Map,
    MapReduce,
    Reduce,
    WorkflowSpec,
)
from celery_operator.domain.workflows.check import invalid, one_of
from celery_operator.domain.workflows.graph import After, Expression, Kind, ResultList, StepResult


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """A step before its arguments are compiled."""

    name: str
    path: str
    """Where it stands in the spec."""
    task: Task | None = None
    map: Map | None = None
    reduce: Reduce | None = None
    after: tuple[After, ...] = ()
    previous: Expression | None = None
    """The result of the element before, in a chain."""
    passes_previous: bool = False
    """Whether that comes before ``args`` by itself."""
    allow_failure: bool = False
    task_field: str = "task"
    """Name of the field that holds the task."""
    inline: bool = False
    """The fields of map or reduce stand in ``path`` itself."""

    @property
    def kind(self) -> Kind:
        """What it becomes."""
        if self.map is not None:
            return "Map"
        return "Task" if self.reduce is None else "Reduce"


@dataclass(frozen=True, slots=True)
class Before:
    """What stands before an element: whom it waits for, and whose result it gets."""

    after: tuple[After, ...] = ()
    result: Expression | None = None


class Unfolder:
    """Collects the steps of one spec, in written order."""

    def __init__(self) -> None:
        self.steps: list[WrittenStep] = []
        self.composites: dict[str, Expression] = {}
        """Results of groups, chains and chords inside, by their names."""

    def work(self, spec: WorkflowSpec) -> Expression:
        """Unfold the spec's work; returns its result. Raises SpecError."""
        start = Before()
        if spec.chain is not None:
            return self._chain(spec.chain, "spec.chain", "s", start).result
        if spec.group is not None:
            return self._group(spec.group, "spec.group", "s", start).result
        if spec.chord is not None:
            return self._root_chord(spec.chord).result
        if spec.map_reduce is not None:
            return self._map_reduce(spec.map_reduce)
        raise invalid("spec", "has no work")

    def _chain(self, elements: Sequence[Element | Inner | Leaf], path: str, prefix: str, before: Before) -> Behind:
        unfolded: Behind | None = None
        for number, element in enumerate(elements):
            unfolded = self._element(element, f"{path}[{number}]", f"{prefix}{number}", before)
            before = Before(unfolded.barrier, unfolded.result)
        if unfolded is None:
            raise invalid(path, "needs at least one element")
        return unfolded

    def _group(self, elements: Sequence[Element | Inner | Leaf], path: str, prefix: str, before: Before) -> Behind:
        if not elements:
            raise invalid(path, "needs at least one element: a fan-out that may be empty is written with items")
        members = [
            self._element(element, f"{path}[{number}]", f"{prefix}{number}", before)
            for number, element in enumerate(elements)
        ]
        barrier = dict.fromkeys(after for member in members for after in member.barrier)
        return Behind(tuple(barrier), ResultList(tuple(member.result for member in members)))

    def _element(self, element: Element | Inner | Leaf, path: str, default_name: str, before: Before) -> Behind:
        kinds = ("task", "map") if isinstance(element, Leaf) else ("task", "group", "chain", "chord", "map")
        one_of(path, element, kinds)
        name = element.name or default_name
        if element.task is not None:
            return self._step(name, path, before, task=element.task)
        if element.map is not None:
            return self._step(name, path, before, map_=element.map)
        if isinstance(element, Leaf):
            raise invalid(path, "set exactly one of task and map")
        if element.group is not None:
            unfolded = self._group(element.group, f"{path}.group", f"{name}-", before)
        elif element.chain is not None:
            unfolded = self._chain(element.chain, f"{path}.chain", f"{name}-", before)
        elif element.chord is not None:
            unfolded = self._leaf_chord(element.chord, f"{path}.chord", name, before)
        else:
            raise invalid(path, "set exactly one of task, group, chain, chord and map")
        if name in self.composites:
            raise invalid(path, f"the name {name!r} is that of another group, chain or chord: give it another name")
        self.composites[name] = unfolded.result
        return unfolded

    def _step(
        self, name: str, path: str, before: Before, *, task: Task | None = None, map_: Map | None = None
    ) -> Behind:
        self.steps.append(
            WrittenStep(
                name,
                path,
                task=task,
                map=map_,
                after=before.after,
                previous=before.result,
                passes_previous=task is not None,  # a map's task gets the item
            )
        )
        return Behind((After(name),), StepResult(name))

    # ------------------------------------------------------------------------------------------------------ chords

    def _leaf_chord(self, chord: InnerChord | LeafChord, path: str, name: str, before: Before) -> Behind:
        header = self._group(chord.header, f"{path}.header", f"{name}-header-", before)
        return self._body(chord.body, path, f"{name}-body", header)

    def _root_chord(self, chord: Chord) -> Behind:
        path = "spec.chord"
        if chord.header is not None:
            if chord.items is not None or chord.task is not None:
                raise invalid(path, "set either header, or items and task; found both")
            header = self._group(chord.header, f"{path}.header", "header-", Before())
            self.composites["header"] = header.result
        elif chord.items is None or chord.task is None:
            raise invalid(path, "set either header, or items and task")
        else:
            self.steps.append(WrittenStep("header", path, map=Map(items=chord.items, task=chord.task), inline=True))
            header = Behind((After("header"),), StepResult("header"))
        return self._body(chord.body, path, "body", header)

    def _body(self, body: Task, path: str, name: str, header: Behind) -> Behind:
        self.steps.append(
            WrittenStep(
                name,
                path,
                task=body,
                after=header.barrier,
                previous=header.result,
                passes_previous=True,
                task_field="body",
            )
        )
        return Behind((After(name),), StepResult(name))

    def _map_reduce(self, work: MapReduce) -> Expression:
        path = "spec.mapReduce"
        self.steps.append(
            WrittenStep(
                "map",
                path,
                map=Map(items=work.items, task=work.map, parallelism=work.parallelism, max_failed=work.max_failed),
                task_field="map",
                inline=True,
            )
        )
        self.steps.append(
            WrittenStep(
                "reduce",
                path,
                reduce=Reduce(source="map", task=work.reduce, combine=work.combine, fan_in=work.fan_in),
                after=(After("map"),),
                task_field="reduce",
                inline=True,
            )
        )
        return StepResult("reduce")


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind an element: whom the next one waits for, and whose result it gets."""

    barrier: tuple[After, ...]
    result: Expression
