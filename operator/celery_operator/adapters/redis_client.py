"""Clients of Redis servers that broker and result backend share: from Celery's URLs, bounded in time, errors mapped.

A server that does not answer costs at most ANSWER_SECONDS, one that is asked to accept a connection CONNECT_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from celery_operator.adapters.asking import ANSWER_SECONDS, CONNECT_SECONDS, explain
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import DependencyError
from celery_patterns.protocol import mask_url

MAX_CONNECTIONS = 16
"""Of one client. Exchanges are pipelined, so more would only queue in the server instead of here."""

REDIS_SCHEMES = ("redis", "rediss")

UNREADABLE = "its host or port cannot be read; a user or password must be percent-encoded (%2F for /, %40 for @)"

_SSL_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_CERT_REQS = {"CERT_REQUIRED": "required", "CERT_OPTIONAL": "optional", "CERT_NONE": "none"}
"""Celery's spelling of ``ssl_cert_reqs`` and redis-py's; both are understood."""


class RedisAddressError(ValueError):
    """A Redis URL that cannot be read; the message says why.

    It never quotes the URL: where a password is not escaped, its parts stand in the port's or the path's place.
    """


def connection_options(url: str) -> dict[str, Any]:
    """Read a Celery Redis URL into the keyword arguments of a connection (without its class).

    Unknown query parameters are ignored, since Celery accepts many that only concern workers.
    Raises RedisAddressError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise RedisAddressError(UNREADABLE) from None
    query = dict(parse_qsl(parts.query))
    database = parts.path.strip("/") or query.get("virtual_host", "").strip("/") or query.get("db", "") or "0"
    if not database.isdecimal():
        raise RedisAddressError("its path must be a database number such as /0")
    if not parts.hostname:
        raise RedisAddressError("its host is missing")
    options: dict[str, Any] = {"host": parts.hostname, "port": port, "db": int(database)}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if parts.scheme == "rediss":
        options |= _ssl_options(query)
    return options


def _ssl_options(query: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {name: value for name, value in query.items() if name in _SSL_OPTIONS}
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() in ("1", "true", "yes")
    required = query.get("ssl_cert_reqs", "required")
    options["ssl_cert_reqs"] = _CERT_REQS.get(required, required)
    return options


def open_redis(url: str) -> Redis:
    """Return a client of bytes. Nothing is connected yet. Raises RedisAddressError."""
    options = connection_options(url)
    pool = BlockingConnectionPool(
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_SECONDS,
        connection_class=SSLConnection if "ssl_cert_reqs" in options else Connection,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        socket_keepalive=True,
        # Once, at once: mends a connection that the server has closed meanwhile. More is the caller's decision.
        retry=Retry(NoBackoff(), 1),
        client_name="celery-operator",
        **options,
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def bounded(
    url: str, what: str, error_type: Callable[[str, Reason], DependencyError], *, seconds: float = ANSWER_SECONDS
) -> AsyncIterator[None]:
    """Run an exchange with a Redis server, at most so long, and raise what goes wrong as ``error_type``.

    Args:
        url: The server, named in the message without its credentials.
        what: What was tried, for the message ("count what waits").
        error_type: Of message and reason.
        seconds: The bound.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
            _raise_swallowed_cancellation()
    except TimeoutError:
        message = f"cannot {what} at {mask_url(url)}: no answer within {seconds:g} s"
        raise error_type(message, Reason.CONNECTION_FAILED) from None
    except (RedisError, OSError) as error:
        raise error_type(*explain(url, what, error)) from error


def _raise_swallowed_cancellation() -> None:
    """Raise CancelledError if the task was cancelled during the exchange and nobody noticed.

    redis-py sends with ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes while the inner
    future is done: a task that should end would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
