"""The values of the Helm chart. From here come values.yaml, values.schema.json and the table in the chart's README."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

JsonObject = dict[str, Any]
"""Passed on to Kubernetes as it is, which checks it."""
StringMap = dict[str, str]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class ValuesModel(BaseModel):
    """A part of the values. Unknown keys are refused: a misspelt one would be ignored in silence."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Image(ValuesModel):
    """A container image."""

    repository: Annotated[str, Field(min_length=1)]
    tag: str = ""
    """Empty: the chart's appVersion."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class OperatorImage(Image):
    """The operator's image."""

    repository: Annotated[str, Field(min_length=1)] = "celery-operator"


class WorkerImage(ValuesModel):
    """The image of pools that name none themselves."""

    repository: Annotated[str, Field(min_length=1)] = "celery-worker"
    tag: str = ""
    """Empty: the chart's appVersion."""


class Crds(ValuesModel):
    """The CustomResourceDefinitions."""

    install: bool = True
    """Install and upgrade them with this release. Only one release of a cluster can; others set false."""
    keep: bool = True
    """Leave them, and with them every resource of their kinds, when the release is uninstalled."""


class ServiceAccount(ValuesModel):
    """Who the operator is for the API server."""

    create: bool = True
    name: str = ""
    """Empty: a name made from the release's."""
    annotations: StringMap = {}


class Rbac(ValuesModel):
    """What the operator, and who uses it, may do."""

    create: bool = True
    """Create the (Cluster)Role and its binding."""
    aggregate_roles: bool = True
    """Let the cluster's roles view, edit and admin cover the operator's kinds."""


class Log(ValuesModel):
    """What the operator logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class PodDisruptionBudget(ValuesModel):
    """Keeps one replica while nodes are drained."""

    enabled: bool = True
    max_unavailable: Annotated[int, Field(ge=0)] = 1


class Metrics(ValuesModel):
    """The service for Prometheus."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    annotations: StringMap = {}


class Resources(ValuesModel):
    """What a container asks for, and may use at most."""

    requests: dict[str, str | int] = {}
    limits: dict[str, str | int] = {}


class RedisImage(Image):
    """Any image with a redis-server (or valkey under that name) on its path."""

    repository: Annotated[str, Field(min_length=1)] = "redis"
    tag: str = "8-alpine"


class Redis(ValuesModel):
    """A single Redis in memory, without a password: for a first try, not for work that matters."""

    enabled: bool = False
    image: RedisImage = RedisImage()
    extra_args: list[str] = []
    """Further arguments of redis-server."""
    resources: Resources = Resources(requests={"cpu": "50m", "memory": "64Mi"}, limits={"memory": "512Mi"})


class Variable(ValuesModel):
    """An environment variable."""

    name: Annotated[str, Field(min_length=1)]
    value: str


class Values(ValuesModel):
    """All values of the chart."""

    image: OperatorImage = OperatorImage()
    worker_image: WorkerImage = WorkerImage()
    image_pull_secrets: list[JsonObject] = []
    """Of the operator's pods: a list of `{name: …}`."""
    replicas: Annotated[int, Field(ge=0, le=10)] = 2
    """One leads, the others wait to take over."""
    watch_namespaces: list[Namespace] = []
    """Namespaces to serve. Empty: all, which needs a ClusterRole; else a Role in each of these."""
    crds: Crds = Crds()
    rbac: Rbac = Rbac()
    service_account: ServiceAccount = ServiceAccount()
    log: Log = Log()
    metrics: Metrics = Metrics()
    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
    resources: Resources = Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"})
    env: list[Variable] = []
    """Further environment variables of the operator."""
    pod_annotations: StringMap = {}
    pod_labels: StringMap = {}
    priority_class_name: str = ""
    node_selector: StringMap = {}
    tolerations: list[JsonObject] = []
    affinity: JsonObject = {}
    """Empty: replicas avoid each other's node."""
    redis: Redis = Redis()
    global_: Annotated[JsonObject, Field(alias="global")] = {}
    """Helm's own; not used."""
