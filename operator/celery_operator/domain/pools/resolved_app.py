"""A Celery application whose references have been followed: URLs are known, and where they came from."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

from celery_operator.api.app import Recovery, SecretKeyRef
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError

REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "sentinel", "valkey", "valkeys"})
"""Transports of kombu that are Redis: only there can a worker refrain from prefetching."""


@dataclass(frozen=True, slots=True)
class ResolvedEndpoint:
    """A URL, and the Secret's key that holds it (None: it stands in the resource and has no credentials)."""

    url: str = field(repr=False)
    """As workers read it, in their own namespace."""
    secret: SecretKeyRef | None = None
    seen_from_operator: str | None = field(default=None, repr=False)
    """The same server's URL where the operator runs, if it is another one."""

    @property
    def address(self) -> str:
        """The URL that the operator itself connects to."""
        return self.seen_from_operator or self.url

    def env(self, name: str) -> dict[str, Any]:
        """Return the container's environment variable that carries the URL."""
        if self.secret is None:
            return {"name": name, "value": self.url.replace("$(", "$$(")}
        return {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": self.secret.name, "key": self.secret.key, "optional": False}},
        }


@dataclass(frozen=True, slots=True)
class ResolvedApp:
    """What pools and workflows need to know about an application."""

    broker: ResolvedEndpoint
    result_backend: ResolvedEndpoint | None
    application: str
    image: str | None = None
    recovery: Recovery = field(default_factory=Recovery)

    @property
    def broker_url(self) -> str:
        """The broker's URL for the operator, with its credentials: never to be shown."""
        return self.broker.address

    @property
    def backend_url(self) -> str | None:
        """The result backend's URL for the operator, with its credentials: never to be shown."""
        return None if self.result_backend is None else self.result_backend.address

    def require_backend(self) -> str:
        """Return the result backend's URL. Raises SpecError(NO_RESULT_BACKEND) if the application names none."""
        if self.result_backend is None:
            raise SpecError(
                Reason.NO_RESULT_BACKEND,
                "the application names no result backend, and a workflow's steps cannot be followed without results: "
                "set connection.resultBackend to the URL of a Redis",
            )
        return self.result_backend.address

    @property
    def broker_is_redis(self) -> bool:
        """Whether the broker is a Redis, by its URL's scheme."""
        return self.broker.url.partition(":")[0].lower() in REDIS_SCHEMES

    def connection_hash(self, key: str) -> str:
        """Return a hash of both URLs that tells nothing to those who do not know the key (the pool's token)."""
        backend = "" if self.result_backend is None else self.result_backend.url
        urls = f"{self.broker.url}\0{backend}".encode()
        return hmac.new(key.encode(), urls, hashlib.sha256).hexdigest()[:16]
