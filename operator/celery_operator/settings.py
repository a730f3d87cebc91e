"""What the operator is told from outside: environment variables, read once at start."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from celery_operator.services.failpoints import FailpointAction

PREFIX = "CELERY_OPERATOR_"


class SettingsError(Exception):
    """A setting is wrong; the message names the variable and what was expected."""


class Settings(BaseModel):
    """The operator's settings; each is the variable CELERY_OPERATOR_<NAME>."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to serve, separated by commas; empty: all (needs a ClusterRole)."""
    lease_namespace: str = "default"
    """Where the Lease of the leader is kept: the operator's own namespace."""
    lease_name: str = "celery-operator"
    identity: str = Field(default_factory=socket.gethostname)
    """Who holds the Lease; POD_NAME if that is set."""
    lease_duration_seconds: int = Field(default=15, ge=3, le=300)
    """How long a leader that has vanished holds up its successor."""
    worker_image: str = "celery-worker:0.1.0"
    """Image of pools that name none."""
    http_port: int = Field(default=8080, ge=0, le=65_535)
    """Probes and metrics."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    kubeconfig: str | None = None
    """Path of a kubeconfig; default: the pod's service account, else KUBECONFIG or ~/.kube/config."""
    failpoint: str | None = None
    """For tests: the place where the process ends itself or stands still (see services/failpoints.py)."""
    failpoint_action: FailpointAction = FailpointAction.END
    """For tests: what it does there."""
    failpoint_hits: int = Field(default=1, ge=1)
    """For tests: how many times it does so before the place is passed unharmed."""

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the environment holds. Raises SettingsError naming the variable."""
    values: dict[str, str] = {
        name: environment[variable]
        for name in Settings.model_fields
        if (variable := PREFIX + name.upper()) in environment
    }
    if "identity" not in values and environment.get("POD_NAME"):
        values["identity"] = environment["POD_NAME"]
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise SettingsError(f"{name} is wrong: {first['msg']}; it is {first['input']!r}") from None
