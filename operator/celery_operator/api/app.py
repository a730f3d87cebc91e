"""CeleryApp: one Celery application, described once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from celery_operator.api.conditions import Conditions
from celery_operator.api.model import ApiModel, ObjectName, Url, rules

NO_CREDENTIALS = (
    "!has(self.url) || !self.url.matches('^[^:]+://[^/]*@')",
    "url must not contain a user or password: put the whole URL into a Secret and use urlFrom.secretKeyRef",
)


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: ObjectName
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class UrlSource(ApiModel):
    """Where a URL with credentials comes from."""

    secret_key_ref: SecretKeyRef


class Endpoint(ApiModel):
    """The URL of a broker or result backend: inline if it holds no credentials, else from a Secret."""

    model_config = {
        "json_schema_extra": rules(
            ("has(self.url) != has(self.urlFrom)", "set exactly one of url and urlFrom"), NO_CREDENTIALS
        )
    }

    url: Url | None = None
    """For instance ``redis://redis:6379/0`` or ``amqp://rabbitmq:5672//``, without user and password."""
    url_from: UrlSource | None = None


class Connection(ApiModel):
    """How the application reaches its servers."""

    broker: Endpoint
    result_backend: Endpoint | None = None
    """Workflows need one (Redis); pools can do without."""


class Recovery(ApiModel):
    """What becomes of tasks whose worker is killed. Kept by the agent in the workers."""

    lease_seconds: Annotated[int, Field(ge=10, le=3600)] = 30
    """Redis: how long a killed worker's messages stay its own before they go back to their queues. RabbitMQ gives them
    back when the worker's connection closes."""
    max_deliveries: Annotated[int, Field(ge=1, le=100)] | None = None
    """How often a message is delivered whose task kills whatever runs it, before it becomes a dead letter. Unset: what
    the application sets as ``patterns_max_deliveries``, else 5."""


class AppSpec(ApiModel):
    """What operator and workers have to know about a Celery application."""

    connection: Connection
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Image of the workers, unless the pool's template names one."""
    application: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_.:]*$")] = (
        "celery_patterns.examples.app:app"
    )
    """What ``celery -A`` gets: ``module:attribute``."""
    recovery: Recovery = Recovery()


class AppStatus(ApiModel):
    """What the operator found."""

    observed_generation: int | None = None
    conditions: Conditions = []


class CeleryApp(ApiModel):
    """The spec and status of a CeleryApp resource."""

    spec: AppSpec
    status: AppStatus | None = None
