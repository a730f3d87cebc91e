"""What doctor looks at in Redis: persistence, rights, clock, and who else uses the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_patterns import protocol
from celery_patterns.cli import (
    check_application,
    check_memory,
    check_rights,
    check_tls,
    check_workers,
    needed_rights,
    reaching,
)
from celery_patterns.cli.findings import Finding, error, ok, unknown, warning
from celery_patterns.store import StoreError, StoreNotConfigured, place
from celery_patterns.store.settings import store_url
from celery_patterns.tasks.patterns import patterns_of

OLDEST = (6, 2)
"""What Celery 5.7 needs for results, and the scripts here for their commands."""

SKEW_SECONDS = 2.0
"""Clocks that NTP keeps differ by far less, and asking over a slow network takes less than that."""

CLIENTS_LISTED = 500
"""Of the server's connections: enough to see who consumes, and no more than a terminal is for."""

KEYS_LOOKED_AT, KEYS_AT_ONCE = 2_000, 500
"""In all, and in one SCAN: a sample that shows company, and does not hold the server up."""

BINDING_SEPARATOR = "\x06\x16"
"""Between routing key, pattern and queue in the members of kombu's bindings."""

OWN_KEYS = ("_kombu.", "unacked", "celery", "{")


def broker(app: Any) -> Iterator[Finding]:
    """The broker, if it is a Redis."""
    connection = reaching.broker(app)
    if connection.transport.driver_type != "redis":
        connection.release()
        return
    with connection:
        where = protocol.mask_url(connection.as_uri())
        try:
            connection.connect()
            client = connection.default_channel.client
            client.ping()
        except NoPermissionError as problem:
            db = int(connection.virtual_host or 0) if str(connection.virtual_host or 0).isdigit() else 0
            first = needed_rights.of_broker(app, db)[0]
            yield error(
                "broker",
                f"{where} refuses: {problem}; with what is advised here doctor can name what else is missing",
                check_rights.asking(connection.userid or "default", first),
            )
            return
        except AuthenticationError as problem:
            yield error("broker", f"{where} refuses: {problem}", "user and password of the broker's URL")
            return
        except Exception as problem:  # noqa: BLE001 - whatever kombu makes of it
            advice = check_tls.advice(problem, "its address, network")
            yield error("broker", f"{where} does not answer: {protocol.mask_url(str(problem))}", advice)
            return
        yield ok("broker", f"{where} answers")
        yield from _server(client, "")
        db = int(client.connection_pool.connection_kwargs.get("db") or 0)
        yield from check_rights.rights(client, needed_rights.of_broker(app, db), "")
        yield from check_application.visibility(app)
        yield from _company(app, client)


def store(app: Any) -> Iterator[Finding]:
    """The store of the patterns, if it is not the broker's server."""
    patterns = patterns_of(app)
    try:
        store_url(patterns.store.settings, app.conf)
    except StoreNotConfigured as problem:
        yield warning("store", str(problem), "set CELERY_PATTERNS_STORE_URL")
        return
    if patterns.store.settings.url is None and check_application.backend_of(app) is None:
        return  # of which results has told
    try:
        patterns.store.call(patterns.store.client.time)  # which the patterns use anyway: PING may be forbidden
    except StoreError as problem:
        if not isinstance(problem.__cause__, NoPermissionError):
            advice = check_tls.advice(problem, "circuits, locks, limits and dead letters need it")
            yield error("store", str(problem), advice)
            return
    yield ok("store", f"the patterns' store {patterns.store.address} answers")
    with app.connection_for_write() as connection:
        options = app.conf.broker_transport_options or {}
        broker_place = f"{connection.hostname}:{connection.port}"
        if connection.transport_cls == "sentinel":
            broker_place = place.of_master(str(options.get("master_name")))
        same = connection.transport.driver_type == "redis" and place.of(patterns.store.client) == broker_place
    if not same:
        yield from _server(patterns.store.client, "store: ")
    yield from check_rights.rights(patterns.store.client, needed_rights.of_store(app), "store: ")


def results(app: Any) -> Iterator[Finding]:
    """Whether the result backend's user may store results, if the backend is a Redis."""
    if check_application.backend_of(app) is None:
        return  # of which check_application has told
    needed = needed_rights.of_results(app)
    if not needed:
        return
    client = reaching.results(app.backend)
    yield from check_tls.checked(client, "results: ")
    with suppress(RedisConnectionError, RedisTimeoutError):  # which check_application tells, too
        yield from check_rights.rights(client, needed, "results: ")


def _server(client: Any, whose: str) -> Iterator[Finding]:
    """One server's own settings, as far as its user may see them."""
    yield from check_tls.checked(client, whose)
    try:
        info = client.info()
    except NoPermissionError:
        yield unknown(
            "server",
            f"{whose}INFO is not allowed: version, role, memory, eviction and persistence are not seen",
            "ACL SETUSER ... +info",
        )
    else:
        yield from _settings(info, client, whose)
    try:
        seconds, microseconds = client.time()
    except NoPermissionError:
        yield unknown("clock", f"{whose}TIME is not allowed", "ACL SETUSER ... +time")
        return
    skew = seconds + microseconds / 1e6 - time.time()
    if abs(skew) > SKEW_SECONDS:
        yield warning(
            "clock",
            f"{whose}the server's clock and this machine's differ by {skew:+.1f} s",
            "NTP on both: eta, expires and visibility timeouts compare workers' clocks (the patterns use the server's)",
        )
    else:
        yield ok("clock", f"{whose}its clock differs by {skew:+.2f} s")


def _settings(info: dict[str, Any], client: Any, whose: str) -> Iterator[Finding]:
    """What INFO says."""
    version = str(info.get("redis_version", "0.0"))
    product = "Valkey" if "valkey_version" in info else "Redis"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield error("version", f"{whose}{product} {version}", "Redis 6.2 or newer")
    else:
        yield ok("version", f"{whose}{product} {info.get('valkey_version', version)}")
    if info.get("redis_mode") == "cluster":
        yield error("cluster", f"{whose}a Redis Cluster: Celery's transport cannot use it", "one server, or Sentinel")
    if info.get("role") not in (None, "master"):
        yield error("replica", f"{whose}a read-only replica", "the URL of the primary")
    yield from check_memory.memory(info, client, whose)
    yield from _persistence(info, client, whose)


def _persistence(info: dict[str, Any], client: Any, whose: str) -> Iterator[Finding]:
    if int(info.get("aof_enabled", 0)):
        yield ok("persistence", f"{whose}appendonly is on")
        return
    try:
        save = str(client.config_get("save").get("save", ""))
    except RedisError:
        yield unknown("persistence", f"{whose}appendonly is off; CONFIG GET is not allowed", "appendonly yes")
        return
    if save.strip():
        yield warning(
            "persistence",
            f"{whose}snapshots only (save {save}): a crash loses what came since the last one",
            "appendonly yes, appendfsync everysec",
        )
    else:
        yield warning(
            "persistence",
            f"{whose}nothing is written to disk: a restart loses every waiting message",
            "appendonly yes, appendfsync everysec",
        )


def _company(app: Any, client: Any) -> Iterator[Finding]:
    """Who else uses the broker's database."""
    db = int(client.connection_pool.connection_kwargs.get("db") or 0)
    try:
        listed = client.client_list()[:CLIENTS_LISTED]
    except RedisError as problem:
        yield unknown("consumers", f"CLIENT LIST is not allowed: {problem}", "ACL SETUSER ... +client|list")
    else:
        blocked = [each for each in listed if str(each.get("cmd", "")).lower() in ("brpop", "bzmpop")]
        here = [each for each in blocked if int(each.get("db", -1)) == db]
        names = sorted({str(each.get("name") or str(each.get("addr", "?")).rsplit(":", 1)[0]) for each in here})
        yield ok(
            "consumers", f"{len(here)} wait for messages in database {db}" + (f": {', '.join(names)}" if names else "")
        )
    yield _keys(app, client, db)
    yield from _strange_queues(app, client, db)
    backend = str(app.conf.result_backend or "")
    if backend.startswith("redis") and backend.rstrip("/") == str(app.conf.broker_url or "").rstrip("/"):
        yield warning(
            "database",
            "broker and results share one database",
            "another database for results, or another server: then losing one does not lose the other",
        )


def _strange_queues(app: Any, client: Any, db: int) -> Iterator[Finding]:
    """Queues that somebody has bound here and this application does not know: seen also while they are empty."""
    prefix = str((app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
    try:
        names = [name for name in _sample(client)[0] if name.startswith(f"{prefix}_kombu.binding.")]
        # kombu's client puts the prefix before the name.
        members = [member for name in names for member in client.smembers(name.removeprefix(prefix))]
    except RedisError:
        return  # of what may not be looked at, _keys has told
    bound = {_text(member).split(BINDING_SEPARATOR)[-1] for member in members}
    strange = sorted(
        name
        for name in bound - check_workers.known_queues(app)
        if not name.endswith(".pidbox") and not name.startswith("celeryev")
    )
    if strange:
        yield warning(
            "database",
            f"database {db} has queues that this application does not name: {', '.join(strange[:3])} ({len(strange)})",
            f"{check_workers.APART}; else name them in task_queues",
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _keys(app: Any, client: Any, db: int) -> Finding:
    """Whose keys are in the broker's database."""
    try:
        keys, all_seen = _sample(client)
        size = client.dbsize()
    except RedisError as problem:
        return unknown(
            "database", f"the keys of database {db} cannot be seen: {problem}", "ACL SETUSER ... +scan +dbsize"
        )
    queues = tuple(str(name) for name in app.amqp.queues)
    prefix = str((app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
    foreign = sorted(name for name in keys if not name.removeprefix(prefix).startswith((*OWN_KEYS, *queues)))
    seen = f"database {db}" if all_seen else f"a sample of {len(keys)} of {size} keys in database {db}"
    if not foreign:
        return ok("database", f"{seen} has only Celery's keys")
    return warning(
        "database",
        f"{seen} has {len(foreign)} keys that are not Celery's, e.g. {', '.join(foreign[:3])}",
        "a database, or better a server, of its own: FLUSHDB and the shortest visibility_timeout are shared",
    )


def _sample(client: Any) -> tuple[set[str], bool]:
    """Return names of keys, and whether those are all: a SCAN returns some at a time, however few there are."""
    keys: set[str] = set()
    cursor = 0
    while len(keys) < KEYS_LOOKED_AT:
        cursor, some = client.scan(cursor, count=KEYS_AT_ONCE)
        keys |= {key.decode(errors="replace") if isinstance(key, bytes) else str(key) for key in some}
        if int(cursor) == 0:
            return keys, True
    return keys, False
