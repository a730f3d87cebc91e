"""CeleryWorkflow: a chain, group, chord, map-reduce or DAG of Celery tasks, run once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from celery_operator.api.app import AppSpec
from celery_operator.api.conditions import Conditions
from celery_operator.api.model import (
    NAMED,
    SHALLOW,
    ApiModel,
    JsonValue,
    Message,
    NamedRef,
    ParameterName,
    Path,
    StepName,
    Timestamp,
    rules,
)
from celery_operator.api.task import ResultOf, Task, TaskOptions
from celery_operator.api.worker_pool import ONE_APP

MAX_STEPS = 100
"""Written steps of one workflow; larger fan-outs use items."""
MAX_MEMBERS = 256
"""Written members of one group or chord header."""
MAX_ITEMS = 1_000_000


class Range(ApiModel):
    """The integers from start up to, but not including, end."""

    model_config = {"json_schema_extra": rules(("self.step != 0", "step must not be 0"))}

    start: int = 0
    end: int
    step: int = 1


class Items(ApiModel):
    """What a fan-out runs over: exactly one of these."""

    model_config = {"json_schema_extra": {"minProperties": 1, "maxProperties": 1}}

    values: Annotated[list[JsonValue], Field(max_length=10_000)] | None = Field(default=None, alias="list")
    """``list`` in YAML: literals."""
    range: Range | None = None
    result_of: ResultOf | None = None
    """The list that an earlier step returned."""


class Map(ApiModel):
    """One task for each item. Its result is the list of the items' results in order."""

    items: Items
    task: Task
    """Without ``args`` and ``kwargs`` it gets the item as its only argument."""
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    """Most tasks of this step published and not finished."""
    max_failed: Annotated[int, Field(ge=0, le=MAX_ITEMS)] = 0
    """Failed items that are tolerated; ``null`` stands in the result for them."""


class Reduce(ApiModel):
    """Joins the results of a map: a tree of ``combine`` calls, then one ``task``."""

    source: Annotated[StepName, Field(alias="from")]
    """The map step."""
    task: Task
    """Gets the list of results (or of what combine returned) as its first argument, then its own."""
    combine: Task | None = None
    """Joins up to fanIn values into one of the same kind; without it ``task`` gets all results at once."""
    fan_in: Annotated[int, Field(ge=2, le=10_000)] = 100


# Sugar nests two levels below the root; schemas cannot recurse, so each level is a model of its own.


class Leaf(ApiModel):
    """An element that holds no others."""

    model_config = {"json_schema_extra": rules(("has(self.task) != has(self.map)", "set exactly one of task and map"))}

    name: StepName | None = None
    task: Task | None = None
    map: Map | None = None


class LeafChord(ApiModel):
    """A chord of plain tasks."""

    header: Annotated[list[Leaf], Field(min_length=1, max_length=MAX_MEMBERS)]
    body: Task


ONE_ELEMENT = (
    "[has(self.task), has(self.group), has(self.chain), has(self.chord), has(self.map)].filter(x, x).size() == 1",
    "set exactly one of task, group, chain, chord and map",
)


class Inner(ApiModel):
    """An element inside a group, chain or chord of another one; what it holds are leaves."""

    model_config = {"json_schema_extra": rules(ONE_ELEMENT)}

    name: StepName | None = None
    task: Task | None = None
    map: Map | None = None
    group: Annotated[list[Leaf], Field(min_length=1, max_length=MAX_MEMBERS)] | None = None
    chain: Annotated[list[Leaf], Field(min_length=1, max_length=MAX_STEPS)] | None = None
    chord: LeafChord | None = None


class InnerChord(ApiModel):
    """A chord inside an element."""

    header: Annotated[list[Inner], Field(min_length=1, max_length=MAX_MEMBERS)]
    body: Task


class Element(ApiModel):
    """An element of a chain, group or chord header."""

    model_config = {"json_schema_extra": rules(ONE_ELEMENT)}

    name: StepName | None = None
    task: Task | None = None
    map: Map | None = None
    group: Annotated[list[Inner], Field(min_length=1, max_length=MAX_MEMBERS), SHALLOW] | None = None
    chain: Annotated[list[Inner], Field(min_length=1, max_length=MAX_STEPS), SHALLOW] | None = None
    chord: Annotated[InnerChord, SHALLOW] | None = None


class Chord(ApiModel):
    """A group whose list of results goes to one more task."""

    model_config = {
        "json_schema_extra": rules(
            (
                "has(self.header) ? !has(self.items) && !has(self.task) : has(self.items) && has(self.task)",
                "set either header, or items and task",
            )
        )
    }

    header: Annotated[list[Element], Field(min_length=1, max_length=MAX_MEMBERS)] | None = None
    items: Items | None = None
    task: Task | None = None
    body: Task


class MapReduce(ApiModel):
    """A map and the reduce of its results."""

    items: Items
    map: Task
    combine: Task | None = None
    reduce: Task
    fan_in: Annotated[int, Field(ge=2, le=10_000)] = 100
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    max_failed: Annotated[int, Field(ge=0, le=MAX_ITEMS)] = 0


class Dependency(ApiModel):
    """A step that has to end before."""

    step: StepName
    condition: Literal["Succeeded", "Failed", "Finished"] = "Succeeded"


class Step(ApiModel):
    """A node of a dag."""

    model_config = {
        "json_schema_extra": rules(
            (
                "[has(self.task), has(self.map), has(self.reduce)].filter(x, x).size() == 1",
                "set exactly one of task, map and reduce",
            )
        )
    }

    name: StepName
    depends_on: Annotated[list[Dependency], Field(max_length=20)] = []
    """All of these; a step whose result is used has to be named here, or be upstream of one that is."""
    task: Task | None = None
    map: Map | None = None
    reduce: Reduce | None = None
    allow_failure: bool = False
    """True: its failure does not fail the run."""


class Dag(ApiModel):
    """Steps that run when those they depend on have ended."""

    model_config = {
        "json_schema_extra": rules(
            (
                "self.steps.all(s, !has(s.dependsOn) || s.dependsOn.all(d, self.steps.exists(o, o.name == d.step)))",
                "dependsOn names a step that does not exist",
            )
        )
    }

    steps: Annotated[
        list[Step],
        Field(min_length=1, max_length=MAX_STEPS),
        NAMED,
    ]


class Parameter(ApiModel):
    """A named value that tasks refer to."""

    name: ParameterName
    value: JsonValue = None


class RunPolicy(ApiModel):
    """Bounds of the whole run."""

    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = 2000
    """Most tasks published and not finished."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    failure_policy: Literal["FailFast", "Continue"] = "FailFast"
    """FailFast: after a failure nothing new begins, except steps that depend on Failed or Finished of what failed."""


class OutputSource(ApiModel):
    """What an output shows: exactly one of these."""

    model_config = {"json_schema_extra": {"minProperties": 1, "maxProperties": 1}}

    result: Path | None = None
    """A path into the result of the whole work: the last element's of a chain, the list of a group, the body's of a
    chord, the reduced value of a mapReduce."""
    result_of: ResultOf | None = None


class Output(ApiModel):
    """A value that status shows at the end."""

    name: ParameterName
    value_from: OutputSource


WORK = ("chain", "group", "chord", "mapReduce", "dag")
IMMUTABLE = (
    "appRef", "app", "runPolicy", "parameters", "taskDefaults", "outputs", *WORK,
)  # fmt: skip


def _unchanged(field: str) -> tuple[str, str]:
    return (
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} cannot change once the workflow exists: create a new CeleryWorkflow",
    )


class WorkflowSpec(ApiModel):
    """What the user asks for. Only ``suspend`` may change later."""

    model_config = {
        "json_schema_extra": rules(
            ONE_APP,
            (
                "[" + ", ".join(f"has(self.{w})" for w in WORK) + "].filter(x, x).size() == 1",
                "set exactly one of chain, group, chord, mapReduce and dag",
            ),
            *(_unchanged(name) for name in IMMUTABLE),
        )
    }

    app_ref: NamedRef | None = None
    app: AppSpec | None = None
    suspend: bool = False
    """True: publish nothing new; what runs goes on."""
    run_policy: RunPolicy = RunPolicy()
    parameters: Annotated[list[Parameter], Field(max_length=100), NAMED] = []
    task_defaults: TaskOptions = TaskOptions()
    chain: Annotated[list[Element], Field(min_length=1, max_length=MAX_STEPS)] | None = None
    group: Annotated[list[Element], Field(min_length=1, max_length=MAX_MEMBERS)] | None = None
    chord: Chord | None = None
    map_reduce: MapReduce | None = None
    dag: Dag | None = None
    outputs: Annotated[list[Output], Field(max_length=20), NAMED] = []


StepState = Literal["Pending", "Running", "Succeeded", "Failed", "Skipped", "Revoked"]


class TaskCounts(ApiModel):
    """Tasks (items of fan-outs counted one by one) by what became of them."""

    total: int = 0
    waiting: int = 0
    """Not published yet."""
    queued: int = 0
    """Published; no worker has begun it."""
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    """Attempts after the first."""
    skipped: int = 0
    revoked: int = 0


class StepStatus(ApiModel):
    """One step."""

    name: Annotated[str, Field(max_length=63)]
    type: Literal["Task", "Map", "Reduce"]
    state: StepState
    tasks: TaskCounts | None = None
    """Of maps and reduces."""
    attempts: int | None = None
    """Of single tasks."""
    failed_indexes: Annotated[str, Field(max_length=1024)] | None = None
    """Intervals, for instance ``17,204-206``; cut at 1 KiB."""
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    message: Message | None = None


class Failure(ApiModel):
    """A failed attempt."""

    step: Annotated[str, Field(max_length=63)]
    index: int | None = None
    task_id: Annotated[str, Field(max_length=64), Field(alias="taskID")]
    attempt: int
    exception: Annotated[str, Field(max_length=128)]
    message: Message
    worker: Annotated[str, Field(max_length=128)] = ""
    time: Timestamp


class OutputReference(ApiModel):
    """Where an output too large for status is kept."""

    step: Annotated[str, Field(max_length=63)]
    """Of a group: its steps, as ``first,second`` or ``first..last``."""
    task_id: Annotated[str, Field(max_length=64)] | None = Field(default=None, alias="taskID")
    """Absent: the output is the list of the results of all tasks of the step."""


class OutputValue(ApiModel):
    """An output: its value, or where to find it if all values together exceed 4 KiB."""

    name: ParameterName
    value: JsonValue = None
    reference: OutputReference | None = None


class Checkpoint(ApiModel):
    """The ConfigMap that holds the run's state beyond what status shows."""

    name: Annotated[str, Field(max_length=253)]
    time: Timestamp


class WorkflowStatus(ApiModel):
    """How the run goes. Bounded: it does not grow with the number of items."""

    observed_generation: int | None = None
    phase: Literal["Pending", "Running", "Suspended", "Succeeded", "Failed"] = "Pending"
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    progress: Annotated[str, Field(max_length=32)] = "0/0"
    run: int = 1
    tasks: TaskCounts = TaskCounts()
    conditions: Conditions = []
    steps: Annotated[list[StepStatus], Field(max_length=1000)] = []
    failures: Annotated[list[Failure], Field(max_length=20)] = []
    outputs: Annotated[list[OutputValue], Field(max_length=20)] = []
    checkpoint: Checkpoint | None = None
    message: Message | None = None


class CeleryWorkflow(ApiModel):
    """The spec and status of a CeleryWorkflow resource."""

    spec: WorkflowSpec
    status: WorkflowStatus | None = None
