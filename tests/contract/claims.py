"""The claims that the agent in a worker makes."""

from __future__ import annotations

import contextlib

from celery.backends.redis import RedisBackend

from celery_patterns.agent.store import ClaimStore


def guard(celery_backend: RedisBackend, lease_seconds: float = 30.0) -> contextlib.closing[ClaimStore]:
    """Return the store of claims that the agent in a worker uses."""
    return contextlib.closing(ClaimStore(celery_backend, lease_seconds=lease_seconds))
