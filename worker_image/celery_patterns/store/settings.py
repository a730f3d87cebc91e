"""Where patterns keep their state and under which names, from the application's configuration or the environment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol
from celery_patterns.store.errors import StoreNotConfigured

ENV_URL = "CELERY_PATTERNS_STORE_URL"
ENV_PREFIX = "CELERY_PATTERNS_PREFIX"
ENV_LEASE = "CELERY_PATTERNS_LEASE_SECONDS"
ENV_BLOB = "CELERY_PATTERNS_BLOB_URL"

PREFIX = "celery-patterns"

LEASE_SECONDS = 30.0
"""How long what a dead worker held stays taken. Long enough for a main process that is stopped for a moment (a node
under pressure, a slow garbage collection) to renew twice; short enough to wait for."""

_PREFIX = re.compile(r"[^{}\s]{1,100}")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The settings of one application's store."""

    url: str | None = None
    """Redis URL; None: the application's Redis result backend, else its Redis broker."""
    prefix: str = PREFIX
    """First part of every key, in braces: all keys of one prefix share a slot of a Redis Cluster, so that one script
    may touch them together."""
    lease_seconds: float = LEASE_SECONDS
    blob_url: str | None = None
    """fsspec URL of a folder for payloads too large for a message."""

    def __post_init__(self) -> None:
        prefix: Any = self.prefix
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix: expected 1 to 100 characters without spaces and braces, got {prefix!r}")
        lease: Any = self.lease_seconds
        if not isinstance(lease, (int, float)) or not math.isfinite(lease) or not 0.3 <= lease <= 3600:
            raise ValueError(f"lease_seconds: expected a number from 0.3 to 3600, got {lease!r}")
        urls: dict[str, Any] = {"store URL": self.url, "blob URL": self.blob_url}
        for name, value in urls.items():
            if value is not None and (not isinstance(value, str) or "://" not in value):
                raise ValueError(f"{name}: expected scheme://..., got a {type(value).__name__} without one")

    @classmethod
    def of(cls, conf: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> StoreSettings:
        """Read ``patterns_store_url``, ``patterns_prefix``, ``patterns_lease_seconds`` and ``patterns_blob_url``.

        The environment (CELERY_PATTERNS_...) wins over the application's configuration. Where neither names a lease it
        is LEASE_SECONDS, or the agent's lease of messages if that is shorter.

        Raises:
            ValueError: If a value is not of its form; the message names it.
        """
        lease: Any = environment.get(ENV_LEASE) or conf.get("patterns_lease_seconds")
        try:
            lease = float(lease or min(LEASE_SECONDS, _message_lease(environment)))
        except (TypeError, ValueError):
            raise ValueError(f"{ENV_LEASE}: expected a number of seconds, got {lease!r}") from None
        return cls(
            url=environment.get(ENV_URL) or conf.get("patterns_store_url") or None,
            prefix=environment.get(ENV_PREFIX) or conf.get("patterns_prefix") or PREFIX,
            lease_seconds=lease,
            blob_url=environment.get(ENV_BLOB) or conf.get("patterns_blob_url") or None,
        )


def _message_lease(environment: Mapping[str, str]) -> float:
    """Return for how long a killed worker's messages stay away: one that is back must not find itself held by the dead.

    A text that is no such number is the agent's to refuse.
    """
    try:
        seconds = float(environment.get(protocol.ENV_AGENT_LEASE) or LEASE_SECONDS)
    except ValueError:
        return LEASE_SECONDS
    return seconds if seconds > 0 else LEASE_SECONDS


def store_url(settings: StoreSettings, conf: Any) -> str | None:
    """Return the URL of the store; None: use the result backend's own client.

    ``conf`` is Celery's: its attributes know the environment's CELERY_BROKER_URL and CELERY_RESULT_BACKEND.

    Raises:
        StoreNotConfigured: If neither settings, result backend nor broker name a Redis.
    """
    if settings.url is not None:
        return settings.url
    if str(conf.result_backend or "").startswith(("redis://", "rediss://", "redis+socket://", "sentinel://")):
        return None
    broker = str(conf.broker_url or "")
    if broker.startswith("sentinel://") and not conf.broker_use_ssl:
        return broker
    broker = broker.split(";", maxsplit=1)[0]
    if broker.startswith(("redis://", "rediss://")):
        return broker
    raise StoreNotConfigured(
        "these patterns keep their state in Redis, and neither the result backend nor the broker is one: "
        f"set {ENV_URL} (or the setting patterns_store_url) to a Redis URL such as redis://host:6379/3"
    )
