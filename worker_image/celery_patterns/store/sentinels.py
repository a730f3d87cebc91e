"""A store whose server sentinels name: after a failover its clients find the new one.

``sentinel://user:password@one:26379/3;sentinel://two:26379/3``, as for Celery: user, password and database are those of
the server. The master's name is in the URL (``?master_name=NAME``) or among Celery's transport options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_patterns.store.errors import StoreNotConfigured

SCHEME = "sentinel://"
DEFAULT_PORT = 26379

ASKING_SECONDS = 1.0
"""How long one sentinel may take: it answers at once or is away, and there may be several of those to go through."""

ASKED_ONCE: dict[str, Any] = {
    "socket_timeout": ASKING_SECONDS,
    "socket_connect_timeout": ASKING_SECONDS,
    "retry": Retry(NoBackoff(), 0),
}
"""Options of a connection to a sentinel: the next one is asked instead."""


def parts(url: str) -> list[SplitResult]:
    """Return the URLs of all sentinels that one text names."""
    return [urlsplit(each if "://" in each else SCHEME + each) for each in url.split(";") if each.strip()]


def master_name(url: str, conf: Any) -> str | None:
    """Return the name of the master: the URL's, else that of the results, else that of the broker."""
    named = next((found[0] for each in parts(url) if (found := parse_qs(each.query).get("master_name"))), None)
    return named or option(conf, "master_name")


def addresses(url: str) -> list[tuple[str, int]]:
    """Return host and port of each sentinel."""
    return [(each.hostname or "localhost", each.port or DEFAULT_PORT) for each in parts(url)]


def client(url: str, conf: Any, options: Mapping[str, Any]) -> redis.Redis:
    """Return a client of the server that sentinels name at the time.

    Args:
        url: Of the sentinels.
        conf: Celery's configuration: its transport options have what the URL does not, ``sentinel_kwargs`` too.
        options: Of the connection to the server.

    Raises:
        StoreNotConfigured: If nothing names the master.
        ValueError: If the database is no number.
    """
    name = master_name(url, conf)
    if not name:
        raise StoreNotConfigured(
            "the patterns' store is behind sentinels, and which of their masters it is is not said: add "
            "?master_name=NAME to its sentinel:// URL, or set broker_transport_options['master_name']"
        )
    first = parts(url)[0]
    database = first.path.strip("/") or "0"
    if not database.isdigit():
        raise ValueError(f"the store's sentinel:// URL: expected a database's number after the port, got {database!r}")
    to_server = {**options, **credentials(first), "db": int(database)}
    to_sentinels = {**ASKED_ONCE, **(option(conf, "sentinel_kwargs") or {})}
    asked: Any = Sentinel(addresses(url), sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
    found: redis.Redis = asked.master_for(name, **to_server)
    return found


def ask_once(client: Any) -> None:
    """Let a client that Celery has made ask each sentinel once and shortly; a client of one server is left as it is.

    The driver's own back-off takes more than ten seconds for each sentinel that is away, which no task can wait for.
    """
    asked = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in asked.sentinels if asked is not None else ():
        sentinel.connection_pool.connection_kwargs.update(ASKED_ONCE)


def credentials(url: SplitResult) -> dict[str, Any]:
    """Return user and password of a URL, as redis-py names them."""
    named = {"username": url.username, "password": url.password}
    return {key: unquote(value) for key, value in named.items() if value}


def option(conf: Any, name: str) -> Any:
    """Return one of Celery's transport options: the results', else the broker's."""
    for options in (conf.result_backend_transport_options, conf.broker_transport_options):
        if options and options.get(name):
            return options[name]
    return None
