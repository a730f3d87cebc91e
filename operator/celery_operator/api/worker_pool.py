"""CeleryWorkerPool: workers as a Deployment that scales on demand and drains before it shrinks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from celery_operator.api.app import AppSpec
from celery_operator.api.conditions import Conditions
from celery_operator.api.model import NAMED, ApiModel, JsonObject, NamedRef, QueueName, rules

Replicas = Annotated[int, Field(ge=0, le=10_000)]
ONE_APP = ("has(self.appRef) != has(self.app)", "set exactly one of appRef and app")


class PoolQueue(ApiModel):
    """A Celery queue that the pool's workers consume."""

    name: QueueName


class Worker(ApiModel):
    """How each worker runs."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 1
    """Slots of one worker: tasks it can run at a time."""
    pool: Literal["prefork", "threads", "gevent", "eventlet", "solo"] = "prefork"
    """gevent and eventlet must be installed in the image; the bundled one has neither."""
    prefetch_multiplier: Annotated[int, Field(ge=0, le=1000)] = 1
    """Messages that a worker reserves for each slot; 0 means no bound."""
    disable_prefetch: bool = True
    """Redis: reserve nothing beyond what runs, so that what waits stays visible in the queue."""
    max_tasks_per_child: Annotated[int, Field(ge=1)] | None = None
    extra_args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=50)] = []
    """Further arguments of ``celery worker``. What typed fields or the operator own is refused."""
    agent: Literal["Bundled", "Injected", "None"] = "Bundled"
    """Bundled: the image holds celery_patterns (it is, or extends, the bundled image). Injected: an init container
    brings the agent into any image with Celery 5.5 to 5.7, which stays as it is. None: a stock image, which can be
    neither counted exactly nor drained: the condition DrainSupported says so."""


class Metric(ApiModel):
    """What replicas follow."""

    type: Literal["TasksPerSlot"] = "TasksPerSlot"
    target: Annotated[int, Field(ge=1, le=10_000)] = 1
    """TasksPerSlot: demand that one slot is there for."""


class ScaleDownBehavior(ApiModel):
    """How fast a pool shrinks."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """The largest recommendation of this window counts."""


class Behavior(ApiModel):
    """How fast a pool follows, as in HPA v2."""

    scale_down: ScaleDownBehavior = ScaleDownBehavior()


class Autoscaling(ApiModel):
    """Replicas that follow demand."""

    model_config = {
        "json_schema_extra": rules(
            ("self.minReplicas <= self.maxReplicas", "minReplicas must not be greater than maxReplicas")
        )
    }

    min_replicas: Replicas = 0
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    poll_period_seconds: Annotated[int, Field(ge=1, le=300)] = 1
    idle_timeout_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How long nothing may be left to do before the last replica goes (minReplicas 0)."""
    metrics: Annotated[list[Metric], Field(min_length=1, max_length=8)] = [Metric()]
    """The largest answer counts."""
    behavior: Behavior = Behavior()


class Drain(ApiModel):
    """How a worker ends."""

    timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] = 3600
    """How long a worker may take to finish what it holds; the pod's grace period is 30 s longer."""


class WorkerPoolSpec(ApiModel):
    """What the user asks for."""

    model_config = {
        "json_schema_extra": rules(
            ONE_APP,
            (
                "!(has(self.replicas) && has(self.autoscaling))",
                "replicas cannot be set beside autoscaling: change autoscaling.minReplicas and maxReplicas, or remove "
                "autoscaling to fix the number of replicas",
            ),
        )
    }

    app_ref: NamedRef | None = None
    app: AppSpec | None = None
    queues: Annotated[list[PoolQueue], Field(min_length=1, max_length=50), NAMED] = [PoolQueue(name="celery")]
    replicas: Replicas | None = None
    """A fixed number of workers (1 if autoscaling is absent too), or what an external autoscaler writes."""
    worker: Worker = Worker()
    autoscaling: Autoscaling | None = None
    drain: Drain = Drain()
    template: JsonObject | None = None
    """A PodTemplateSpec laid over the operator's own; its container is called ``worker``."""


class Slots(ApiModel):
    """The pool's slots, over all workers that answer."""

    total: int = 0
    busy: int = 0
    reserved: int = 0
    scheduled: int = 0


class QueueStatus(ApiModel):
    """A queue as last seen."""

    name: Annotated[str, Field(max_length=255)]
    waiting: int


class AutoscalingStatus(ApiModel):
    """What the autoscaler wants, and why."""

    mode: Literal["Native", "Fixed"]
    recommended_replicas: int | None = None
    limited_by: Annotated[str, Field(max_length=64)] | None = None
    last_scale_time: Annotated[str, Field(max_length=64)] | None = None


class WorkerPoolStatus(ApiModel):
    """What the operator sees."""

    observed_generation: int | None = None
    replicas: int = 0
    ready_replicas: int = 0
    desired_replicas: int = 0
    draining_replicas: int = 0
    selector: Annotated[str, Field(max_length=512)] = ""
    slots: Slots | None = None
    """None: no worker answers though there are some."""
    queues: Annotated[list[QueueStatus], Field(max_length=50)] = []
    """Empty while the broker does not answer."""
    waiting: int | None = None
    """Messages that wait, over all queues."""
    autoscaling: AutoscalingStatus | None = None
    conditions: Conditions = []


class CeleryWorkerPool(ApiModel):
    """The spec and status of a CeleryWorkerPool resource."""

    spec: WorkerPoolSpec
    status: WorkerPoolStatus | None = None
