"""A Celery task as a step runs it: name, arguments, limits and retries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from celery_operator.api.model import (
    NAMED,
    ApiModel,
    JsonValue,
    ParameterName,
    Path,
    QueueName,
    StepName,
    TaskName,
    rules,
)

Seconds = Annotated[int, Field(ge=1, le=2_592_000)]


class ResultOf(ApiModel):
    """The result of a step that runs before; of a map: the list of its items' results in order."""

    step: StepName
    path: Path | None = None


class ValueSource(ApiModel):
    """Where a value comes from: exactly one of these."""

    model_config = {"json_schema_extra": {"minProperties": 1, "maxProperties": 1}}

    parameter: ParameterName | None = None
    item: Path | None = None
    """In a map: a path into the item; ``$`` is the item itself."""
    result_of: ResultOf | None = None
    previous_result: Path | None = None
    """In a chain: a path into the result of the element before."""


class Argument(ApiModel):
    """A positional argument: exactly one of a literal and a reference."""

    # Counted, not a CEL rule: rules cannot see a field that may hold anything.
    model_config = {"json_schema_extra": {"minProperties": 1, "maxProperties": 1}}

    value: JsonValue = None
    value_from: ValueSource | None = None


class KeywordArgument(Argument):
    """A keyword argument: a name, and exactly one of a literal and a reference."""

    model_config = {"json_schema_extra": {"minProperties": 2, "maxProperties": 2}}

    name: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Backoff(ApiModel):
    """How long to wait before the next attempt: initial, initial x factor, … up to max, give or take the jitter."""

    initial_seconds: Annotated[int, Field(ge=0, le=86_400)] = 1
    factor: Annotated[int, Field(ge=1, le=100)] = 2
    max_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    jitter_percent: Annotated[int, Field(ge=0, le=100)] = 20


class Retry(ApiModel):
    """When and how often a task is tried again, as a new attempt with an id of its own."""

    limit: Annotated[int, Field(ge=0, le=100)] = 0
    """Retries after the first try: 3 means at most 4 attempts."""
    classes: Annotated[list[Literal["Failed", "Lost", "TimedOut"]], Field(min_length=1, max_length=3)] = [
        "Failed",
        "Lost",
        "TimedOut",
    ]
    """Failed: the task raised. Lost: its worker died. TimedOut: its hard time limit ended it."""
    backoff: Backoff = Backoff()


class TaskOptions(ApiModel):
    """What may be set for all tasks of a workflow, and overridden by each."""

    queue: QueueName | None = None
    """Default: ``celery``, Celery's own default."""
    time_limit_seconds: Seconds | None = None
    soft_time_limit_seconds: Seconds | None = None
    lost_after_seconds: Seconds | None = None
    """How long after its worker's last sign of life a task counts as Lost. Default: 60, or 30 more than the
    application's ``recovery.leaseSeconds`` if that is longer (Redis), so that its own message may bring it back."""
    retry: Retry | None = None


class Task(TaskOptions):
    """One Celery task."""

    model_config = {
        "json_schema_extra": rules(
            (
                "!has(self.softTimeLimitSeconds) || !has(self.timeLimitSeconds) || "
                "self.softTimeLimitSeconds < self.timeLimitSeconds",
                "softTimeLimitSeconds must be less than timeLimitSeconds",
            )
        )
    }

    name: TaskName
    """The name it is registered under in the application."""
    args: Annotated[list[Argument], Field(max_length=50)] = []
    kwargs: Annotated[list[KeywordArgument], Field(max_length=50), NAMED] = []
    immutable: bool = False
    """In a chain: take no previous result. As ``signature(immutable=True)`` in Celery."""
