"""What every workflow compiles to: steps in an order in which they could run, each with what it waits for and calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from celery_operator.api.task import Retry
from celery_operator.domain.messages import DEFAULT_QUEUE
from celery_operator.domain.workflows.tree import Tree, tree_over
from celery_patterns.jsonpath import WHOLE

COMPILER_VERSION = 1
"""Of the graph's JSON form. A later operator reads all earlier versions, so that runs survive upgrades."""

Condition = Literal["Succeeded", "Failed", "Finished"]
Kind = Literal["Task", "Map", "Reduce"]

# ------------------------------------------------------------------------------------------------------ expressions


@dataclass(frozen=True, slots=True)
class LiteralValue:
    """A JSON value that stands in the spec."""

    value: Any


@dataclass(frozen=True, slots=True)
class ParameterValue:
    """The value of a parameter; values stand once, in the graph."""

    name: str


@dataclass(frozen=True, slots=True)
class ItemValue:
    """The item of a map, or what a path selects in it."""

    path: str = WHOLE


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step, or what a path selects in it."""

    step: str
    path: str = WHOLE
    """Of a whole map always ``$``: a path into a map's list begins with an index, which is ``index``."""
    index: int | None = None
    """Of a map: only this item's result; negative counts from the end."""


@dataclass(frozen=True, slots=True)
class ResultList:
    """The results of several steps as one list: what a group gives."""

    elements: tuple[Expression, ...]


Expression: TypeAlias = LiteralValue | ParameterValue | ItemValue | StepResult | ResultList

# ------------------------------------------------------------------------------------------------------------ items


@dataclass(frozen=True, slots=True)
class ItemList:
    """Items that stand in the spec."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ItemRange:
    """Integers from start up to, but not including, end."""

    start: int
    end: int
    step: int

    @property
    def count(self) -> int:
        """How many integers that is (``len(range())`` overflows for large bounds)."""
        span = self.end - self.start
        return max(0, -(-span // self.step))


@dataclass(frozen=True, slots=True)
class ItemsOf:
    """The elements of a list that earlier steps made."""

    source: StepResult | ResultList


Items: TypeAlias = ItemList | ItemRange | ItemsOf

# ------------------------------------------------------------------------------------------------------------ nodes


@dataclass(frozen=True, slots=True)
class After:
    """What has to have happened to another step before."""

    step: str
    condition: Condition = "Succeeded"


@dataclass(frozen=True, slots=True)
class Call:
    """A Celery task with its arguments and all its options (times in seconds)."""

    task: str
    args: tuple[Expression, ...] = ()
    kwargs: tuple[tuple[str, Expression], ...] = ()
    queue: str = DEFAULT_QUEUE
    time_limit: int | None = None
    soft_time_limit: int | None = None
    lost_after: int | None = None
    """None: as long as the application's recovery asks for, see ``lost.default_lost_after``."""
    retry: Retry = field(default_factory=Retry)


@dataclass(frozen=True, slots=True)
class Node:
    """A step."""

    name: str
    kind: Kind
    call: Call
    after: tuple[After, ...] = ()
    """The same tuple object for the members of a group: what follows a wide group stays cheap."""
    allow_failure: bool = False
    items: Items | None = None
    """Of a Map."""
    parallelism: int | None = None
    max_failed: int = 0
    source: str | None = None
    """Of a Reduce: the map."""
    combine: Call | None = None
    fan_in: int | None = None
    """Of a Reduce with ``combine``."""

    def call_of(self, index: int, count: int) -> Call:
        """Return what the task at this index of ``count`` calls: a reduce's last is ``call``, others ``combine``."""
        if self.combine is not None and index < count - 1:
            return self.combine
        return self.call

    def tree(self, values: int) -> Tree:
        """Return the calls of a Reduce over that many values."""
        return tree_over(values, self.fan_in)


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """A value that status shows at the end."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled workflow. Nodes stand in topological order, and in the written order where that is one."""

    nodes: tuple[Node, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[GraphOutput, ...] = ()
    by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; ``from_json`` of this or any later operator reads it."""
        from celery_operator.domain.workflows.graph_json import encode  # noqa: PLC0415 - they know each other

        return encode(self)

    @classmethod
    def from_json(cls, body: Any) -> Graph:
        """Read the JSON form. Raises ValueError if it is none, or of a later compiler."""
        from celery_operator.domain.workflows.graph_json import decode  # noqa: PLC0415 - they know each other

        return decode(body)
