"""What is known about a run: for each step one small code an item, and what little else cannot be derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple

from celery_operator.api.workflow import StepState as StepPhase
from celery_operator.domain.messages import Resumption
from celery_operator.domain.workflows.graph import (
    Graph,
    ItemList,
    ItemRange,
    Items,
    ItemsOf,
    Node,
    ResultList,
    StepResult,
)

KEPT_FAILURES = 20
"""The newest failed attempts that are remembered; status shows no more."""


class Code(IntEnum):
    """What is known about one item; the values are those of ``StepState.items``."""

    PENDING = 0
    """To be published as soon as bounds allow."""
    WAITING = 1
    """To be tried again when its time has come."""
    PUBLISHED = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    SKIPPED = 6
    """Will never be published."""
    REVOKED = 7
    """Was published, and is no longer wanted."""


CODES = len(Code)
ENDED = (Code.SUCCEEDED, Code.FAILED, Code.SKIPPED, Code.REVOKED)
FINAL_PHASES: frozenset[StepPhase] = frozenset({"Succeeded", "Failed", "Skipped", "Revoked"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt, its texts already cut and masked."""

    step: str
    index: int
    attempt: int
    exception: str
    message: str
    worker: str
    time: datetime

    @property
    def order(self) -> tuple[datetime, str, int, int]:
        """Sorts failures, the newest last; equal for no two."""
        return (self.time, self.step, self.index, self.attempt)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a step has failed: its failed item with the lowest index."""

    index: int
    attempt: int
    exception: str
    message: str


class Due(NamedTuple):
    """A retry that waits; sorts by time. A tuple, since heaps of very many are compared all the time."""

    at: datetime
    item: int
    """Its index."""
    attempt: int


@dataclass(frozen=True, slots=True)
class StepState:
    """One step. ``items`` is None while its length is not known."""

    phase: StepPhase = "Pending"
    items: bytes | None = None
    counts: tuple[int, ...] = (0,) * CODES
    """How many items have each code."""
    attempts: Mapping[int, int] = field(default_factory=dict)
    """The number of the last attempt, where it is not 1."""
    due: tuple[Due, ...] = ()
    """A heap. Entries that no longer fit the item's code and attempt mean nothing."""
    started: datetime | None = None
    ended: datetime | None = None
    lost: int = 0
    """Failed items whose last attempt was lost."""
    size: int = 0
    """Bytes of the stored results, as far as they were told."""
    cause: Cause | None = None
    error: str | None = None
    """Why the whole step cannot go on, whatever its items do."""
    resumptions: Mapping[int, Resumption] = field(default_factory=dict)
    """Where those pending items go on that Celery itself was to retry. In memory only: the claims tell it again to
    whoever takes over, since nothing is published then before it was looked for."""

    @property
    def final(self) -> bool:
        """Whether the step has ended."""
        return self.phase in FINAL_PHASES

    @property
    def active(self) -> int:
        """Tasks published and not finished."""
        return self.counts[Code.PUBLISHED] + self.counts[Code.RUNNING]

    @property
    def next_due(self) -> datetime | None:
        """When the next retry may be due; never too late."""
        return self.due[0].at if self.due and self.counts[Code.WAITING] else None

    def attempt(self, index: int) -> int:
        """Return the number of an item's last attempt, or of its first one to come."""
        return self.attempts.get(index, 1)


@dataclass(frozen=True, slots=True)
class RunState:
    """One passage through a graph. ``steps`` has the graph's names, in its order."""

    run: int
    started: datetime
    steps: Mapping[str, StepState]
    failures: tuple[Failure, ...] = ()
    """The newest, oldest first."""
    deadline_exceeded: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    """Results that are known: small ones that were announced, and what was fetched for outputs. In memory only; the key
    is a step's name, or ``step[index]`` for one item of a map."""
    lists: Mapping[str, list[Any]] = field(default_factory=dict)
    """Fetched lists that maps run over, by the name of the map; dropped when all are published. In memory only."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Results that could not be fetched, and why; keys as in ``values``. In memory only."""

    @property
    def done(self) -> bool:
        """Whether every step has ended."""
        return all(step.final for step in self.steps.values())


def item_count(graph: Graph, node: Node, counts: Mapping[str, int | None]) -> int | None:
    """Return how many tasks a step has if the spec and the counts of the steps before it tell, else None."""
    if node.kind == "Reduce":
        values = counts.get(node.source or "")
        return None if values is None else node.tree(values).calls
    return 1 if node.kind == "Task" else _items_count(graph, node.items, counts)


def _items_count(graph: Graph, items: Items | None, counts: Mapping[str, int | None]) -> int | None:
    match items:
        case ItemList(literals):
            return len(literals)
        case ItemRange():
            return items.count
        case ItemsOf(ResultList(elements)):
            return len(elements)
        case ItemsOf(StepResult(step, _, None)) if graph.by_name[step].kind == "Map":
            return counts.get(step)
        case _:
            return None


def fresh_step(count: int | None) -> StepState:
    """Return a step of which nothing has been published."""
    if count is None:
        return StepState()
    return StepState(items=bytes(count), counts=(count, *(0,) * (CODES - 1)))


def initial_state(graph: Graph, *, run: int = 1, now: datetime) -> RunState:
    """Return the state in which nothing has happened yet. ``run`` counts the passages of one workflow."""
    counts: dict[str, int | None] = {}
    for node in graph.nodes:
        counts[node.name] = item_count(graph, node, counts)
    return RunState(run=run, started=now, steps={name: fresh_step(count) for name, count in counts.items()})


def positions(items: bytes | bytearray, code: int, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Yield the indexes of the items with this code; costs what is found, not what is passed over."""
    stop = len(items) if stop is None else stop
    at = items.find(code, start, stop)
    while at >= 0:
        yield at
        at = items.find(code, at + 1, stop)


# ------------------------------------------------------------------------------------------------------ the checkpoint


def to_checkpoint(state: RunState) -> dict[str, str]:
    """Return the state as the data of a ConfigMap: ``run.json``, and ``items.STEP`` for each larger fan-out.

    Two bits an item (not published, published, succeeded, ended otherwise), packed, compressed, in base64: at most
    34 kB for 100,000 items. Left out: what is in memory only, and whether a published task has begun.
    """
    from celery_operator.domain.workflows import checkpoint  # noqa: PLC0415 - they know each other

    return checkpoint.encode(state)


def from_checkpoint(graph: Graph, data: Mapping[str, str]) -> RunState:
    """Return the state that ``to_checkpoint`` was given; what had begun is published again in it.

    Raises ValueError if the data is damaged, or does not belong to this graph.
    """
    from celery_operator.domain.workflows import checkpoint  # noqa: PLC0415 - they know each other

    return checkpoint.decode(graph, data)
