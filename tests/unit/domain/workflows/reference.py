"""The plain meaning of a workflow: evaluated step by step from the spec, with no graph, no state and no messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unit.domain.workflows.simulation import FUNCTIONS, Faults

CLASS_OF = {"failed": "Failed", "lost": "Lost", "timed_out": "TimedOut"}


class NoResultError(Exception):
    """An argument names what is not there."""


@dataclass
class Meaning:
    """What a dag means when everything that can run runs (failure policy Continue)."""

    faults: Faults
    parameters: Mapping[str, Any]
    retry: Mapping[str, Any]
    phases: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def evaluate(self, steps: list[dict[str, Any]]) -> None:
        """Evaluate all steps; they are written in an order in which they can run."""
        for step in steps:
            self.phases[step["name"]] = self._phase(step)

    @property
    def succeeded(self) -> bool:
        """Whether nothing has failed (no step here may fail)."""
        return "Failed" not in self.phases.values()

    def _phase(self, step: dict[str, Any]) -> str:
        for dependency in step.get("dependsOn", ()):
            condition = dependency.get("condition", "Succeeded")
            if condition not in ("Finished", self.phases[dependency["step"]]):
                return "Skipped"
        try:
            return self._run(step)
        except NoResultError:
            return "Failed"

    def _run(self, step: dict[str, Any]) -> str:
        name = step["name"]
        if "task" in step:
            value = self.call(name, 0, step["task"], None)
            if value is None:
                return "Failed"
            self.results[name] = value
            return "Succeeded"
        if "map" in step:
            values = [
                self.call(name, at, step["map"]["task"], item)
                for at, item in enumerate(self._items(step["map"]["items"]))
            ]
            if values.count(None) > step["map"].get("maxFailed", 0):
                return "Failed"
            self.results[name] = values
            return "Succeeded"
        source = self._result({"step": step["reduce"]["from"]})
        further = self.args(step["reduce"]["task"], None)
        if self._fails(name, 0):  # whichever call has this index
            return "Failed"
        self.results[name] = FUNCTIONS["total"](source, *further)
        return "Succeeded"

    def call(self, name: str, index: int, task: dict[str, Any], item: Any) -> Any:
        """Return a task's result; None: it failed for good."""
        args = self.args(task, item)
        return None if self._fails(name, index) else FUNCTIONS[task["name"]](*args)

    def _fails(self, name: str, index: int) -> bool:
        return any(
            number > self.retry["limit"] or CLASS_OF.get(fault) not in self.retry["classes"]
            for number, fault in enumerate(self.faults.get((name, index), ()), start=1)
        )

    def args(self, task: dict[str, Any], item: Any) -> list[Any]:
        """Return a task's arguments."""
        return [self._value(arg, item) for arg in task.get("args", ())]

    def _value(self, arg: dict[str, Any], item: Any) -> Any:
        if "value" in arg:
            return arg["value"]
        source = arg["valueFrom"]
        if "parameter" in source:
            return self.parameters[source["parameter"]]
        if "item" in source:
            return item
        return self._result(source["resultOf"])

    def _result(self, source: dict[str, Any]) -> Any:
        if self.phases[source["step"]] != "Succeeded":
            raise NoResultError
        value = self.results[source["step"]]
        if "path" in source:
            index = int(source["path"].strip("$[]"))
            if not isinstance(value, list) or not -len(value) <= index < len(value):
                raise NoResultError
            value = value[index]
        return value

    def _items(self, items: dict[str, Any]) -> list[Any]:
        if "list" in items:
            return list(items["list"])
        if "range" in items:
            return list(range(items["range"].get("start", 0), items["range"]["end"], items["range"].get("step", 1)))
        value = self._result(items["resultOf"])
        if not isinstance(value, list):
            raise NoResultError
        return value
