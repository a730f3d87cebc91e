"""Which of Redis's commands, keys and channels are used, on broker, result backend and store, and by whom.

The commands of scripts count: the server checks those too. What redis-py says of itself (CLIENT SETINFO) does not: a
refusal of it is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from celery.backends.redis import RedisBackend

from celery_patterns import protocol
from celery_patterns.cli import needed_channels
from celery_patterns.cli.findings import Level
from celery_patterns.cli.needed_channels import Channel
from celery_patterns.tasks.patterns import patterns_of

UUID_AT_END = re.compile(r"(?<=\.)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")

TRANSACTION = frozenset(("EXEC", "MULTI", "UNWATCH", "WATCH"))

KOMBU = TRANSACTION | {
    "BRPOP",
    "DEL",
    "EVALSHA",
    "EXISTS",
    "GET",
    "HDEL",
    "HGET",
    "HSET",
    "LLEN",
    "LPUSH",
    "PEXPIRE",
    "PING",
    "PSUBSCRIBE",
    "PUBLISH",
    "PUNSUBSCRIBE",
    "RPUSH",
    "SADD",
    "SCRIPT|EXISTS",
    "SCRIPT|LOAD",
    "SET",
    "SMEMBERS",
    "SREM",
    "TIME",
    "ZADD",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZREM",
}
"""What kombu's transport does to a broker, for workers and for those who send: queues, what is held, remote control."""

LEASES = frozenset(("EVAL", "EXPIRE", "HEXISTS", "ZREMRANGEBYSCORE", "ZSCORE"))
"""What the leases of the agent's workers, and writing to a broker without memory, do beyond that."""

MESSAGES_SEEN = frozenset(("HSCAN", "LRANGE", "ZSCORE"))
"""How ``task`` and ``explain`` look into queues, and at what workers hold."""

RESULTS = TRANSACTION | {
    "DEL",
    "EVALSHA",
    "EXISTS",
    "EXPIRE",
    "GET",
    "INCRBY",
    "MGET",
    "PUBLISH",
    "SADD",
    "SCRIPT|LOAD",
    "SET",
    "SETEX",
    "SISMEMBER",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
}
"""What Celery's result backend does; chords, whose parts come together in scripts, have some more."""

ORDERED, UNORDERED = frozenset(("ZADD", "ZCOUNT", "ZRANGE")), frozenset(("LLEN", "LRANGE", "RPUSH"))
"""What chords keep their parts' results with: ``result_chord_ordered``, on by default, and off."""

CLAIMS = frozenset(
    ("EVAL", "EVALSHA", "HDEL", "HGET", "HMGET", "HSET", "PEXPIRE", "PUBLISH", "SCRIPT|LOAD", "STRLEN", "TIME")
)
"""What the agent does to claims of workflows' tasks, and to tell the operator of their ends."""

OPERATOR_SENDS = frozenset(("CLIENT|SETNAME", "LLEN", "LPUSH", "PING", "PUBLISH", "SADD"))
OPERATOR_FOLLOWS = frozenset(
    (
        "CLIENT|SETNAME",
        "EVALSHA",
        "EXPIRE",
        "GET",
        "GETRANGE",
        "HMGET",
        "HSET",
        "MGET",
        "PING",
        "SCRIPT|LOAD",
        "SUBSCRIBE",
        "TIME",
        "UNSUBSCRIBE",
    )
)
"""What celery-operator does on broker and result backend: it counts and sends, and follows what it sent."""

OPERATOR = "celery-operator"

STORE = frozenset(
    (
        "DEL",
        "EVAL",
        "EVALSHA",
        "GET",
        "HDEL",
        "HEXISTS",
        "HGET",
        "HGETALL",
        "HINCRBY",
        "HKEYS",
        "HLEN",
        "HMGET",
        "HSET",
        "HSETNX",
        "INCRBY",
        "PEXPIRE",
        "PTTL",
        "PUBLISH",
        "SET",
        "TIME",
        "XADD",
        "XLEN",
        "XTRIM",
        "ZADD",
        "ZCARD",
        "ZRANGE",
        "ZRANGEBYSCORE",
        "ZREM",
        "ZSCORE",
    )
)
"""What the patterns do in tasks and in those who send them."""

STORE_SEEN = frozenset(("PING", "PSUBSCRIBE", "SCAN", "TYPE", "XDEL", "XRANGE", "XREVRANGE"))
"""What looking at circuits, keys and dead letters needs beyond that, listening to circuits and ``bench`` included."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one connection's user must be allowed, for one use."""

    commands: frozenset[str]
    """Such as ``GET`` or ``SCRIPT|LOAD``."""
    keys: dict[str, str]
    """Names that are really used, each with the pattern of an ACL that allows it."""
    channels: tuple[Channel, ...] = ()
    use: str = ""
    """Who needs it; empty: every worker, and whoever sends or waits for tasks."""
    lacking: Level = Level.ERROR
    """How bad it is if something of it is refused."""


def of_broker(app: Any, db: int) -> list[Needs]:
    """What the broker's user needs: the queues by their names, kombu's own keys, events and remote control."""
    options = dict(app.conf.broker_transport_options or {})
    prefix = str(options.get("global_keyprefix") or "")
    queues = {f"{prefix}{queue}": f"{prefix}{_lasting(queue)}*" for queue in app.amqp.queues}
    held = {}
    for kind in ("unacked", "unacked_index", "unacked_mutex"):
        name = str(options.get(f"{kind}_key", kind))
        held[prefix + name] = prefix + ("unacked*" if name.startswith("unacked") else f"{name}*")
    own = {prefix + name: prefix + allowed for name, allowed in _kombus_keys(app.conf).items()}
    leased = {key + protocol.LEASED_SUFFIX: allowed for key, allowed in held.items()}
    connecting = _connecting(db, options.get("client_name"))
    return [
        Needs(KOMBU | connecting, queues | held | own, needed_channels.of_broker(app, db)),
        Needs(LEASES, leased, use="the agent's leases and a broker without memory", lacking=Level.WARNING),
        Needs(
            OPERATOR_SENDS | connecting,
            queues | {f"{prefix}_kombu.binding.celery": f"{prefix}_kombu.*"},
            needed_channels.of_operator_on_broker(app, db),
            use=OPERATOR,
            lacking=Level.WARNING,
        ),
        Needs(MESSAGES_SEEN, queues | held | leased, use="celery-patterns task and explain", lacking=Level.UNKNOWN),
    ]


def _kombus_keys(conf: Any) -> dict[str, str]:
    """Keys beside queues and what is held, each with the pattern that allows it: bindings, remote control, events."""
    control, events = f"{conf.control_exchange}.pidbox", conf.event_queue_prefix
    return {
        f"_kombu.binding.{conf.event_exchange}": "_kombu.*",
        f"worker@host.{control}": f"*.{control}*",
        f"0000.reply.{control}": f"*.{control}*",
        f"{events}.0000": f"{events}.*",
    }


def _lasting(queue: str) -> str:
    """Return what of a queue's name is the same in each process: that of a ``Broadcast`` ends in a UUID."""
    return UUID_AT_END.sub("", queue)


def of_results(app: Any) -> list[Needs]:
    """What the result backend's user needs; nothing if that is no Redis."""
    backend = app.backend
    if not isinstance(backend, RedisBackend):
        return []
    result, group = (_text(key) for key in (backend.get_key_for_task("0"), backend.get_key_for_group("0")))
    prefix = result.removesuffix(f"{protocol.RESULT_KEY_PREFIX}0")
    claim = protocol.claim_key("0", 0, prefix)
    db = int(backend.connparams.get("db") or 0)
    options = app.conf.result_backend_transport_options or {}
    commands = RESULTS | _connecting(db, backend.connparams.get("client_name"))
    commands |= ORDERED if options.get("result_chord_ordered", True) else UNORDERED
    if backend.connparams.get("health_check_interval"):
        commands |= {"PING"}
    stored = {name: name.removesuffix("0") + "*" for name in (result, group)}
    return [
        Needs(
            commands,
            stored,
            needed_channels.of_results(result.removesuffix("0"), group.removesuffix("0")),
        ),
        Needs(
            CLAIMS,
            {claim: f"{prefix}{protocol.CLAIM_PREFIX}*"},
            needed_channels.of_agent(db, prefix),
            use="the agent, for tasks of workflows",
            lacking=Level.WARNING,
        ),
        Needs(
            OPERATOR_FOLLOWS | _connecting(db, None),
            {claim: f"{prefix}{protocol.CLAIM_PREFIX}*", result: stored[result]},
            needed_channels.of_operator_on_results(db, prefix),
            use=OPERATOR,
            lacking=Level.WARNING,
        ),
    ]


def of_store(app: Any) -> list[Needs]:
    """What the user of the patterns' store needs."""
    store = patterns_of(app).store
    prefix = f"{{{store.settings.prefix}}}:"
    keys = {f"{prefix}task:0": f"{prefix}*"}
    parameters = store.client.connection_pool.connection_kwargs
    connecting = _connecting(int(parameters.get("db") or 0), parameters.get("client_name"))
    return [
        Needs(STORE | connecting, keys, needed_channels.of_store(store.settings.prefix)),
        Needs(
            STORE_SEEN,
            keys,
            use="celery-patterns circuit, dlq and explain",
            lacking=Level.UNKNOWN,
        ),
    ]


def _connecting(db: int, client_name: Any) -> frozenset[str]:
    """What redis-py sends once on each connection, and cannot do without."""
    return frozenset({"SELECT"} if db else ()) | ({"CLIENT|SETNAME"} if client_name else frozenset())


def _text(key: Any) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
