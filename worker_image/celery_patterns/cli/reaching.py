"""How doctor connects: a server that takes a connection and says nothing is not waited for as workers do, for ever."""

from __future__ import annotations

from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

SECONDS = 3.0
"""How long one answer may take."""

REDIS = ("redis://", "rediss://", "sentinel://", "redis+socket://")


def broker(app: Any, **options: Any) -> Any:
    """Return a connection to the application's broker."""
    if str(app.conf.broker_url or "").startswith(REDIS):
        own = app.conf.broker_transport_options or {}
        options["transport_options"] = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, **own}
    return app.connection_for_write(**options)


def results(backend: Any) -> Any:
    """Return a client of a Redis result backend, made as its own."""
    short = {"socket_timeout": SECONDS, "retry": Retry(NoBackoff(), 0)}
    if "path" not in backend.connparams:
        short["socket_connect_timeout"] = SECONDS
    return backend._create_client(**{**backend.connparams, **short})  # noqa: SLF001 - it is made there alone
