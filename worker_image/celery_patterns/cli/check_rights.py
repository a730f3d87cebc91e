"""What doctor asks of Redis's access rules: may this user run the commands, on the keys and channels that are used?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from celery_patterns.cli.findings import Finding, error, ok, unknown
from celery_patterns.tasks.patterns import patterns_of

KEY, CHANNEL = "<key>", "<channel>"
"""Stand for a name in an example of a command."""

EXAMPLES = (
    f"BRPOP {KEY} 0",
    f"DEL {KEY}",
    "EVAL return 0",
    "EVALSHA 0 0",
    "EXEC",
    f"EXISTS {KEY}",
    f"EXPIRE {KEY} 1",
    f"GET {KEY}",
    f"HDEL {KEY} f",
    f"HEXISTS {KEY} f",
    f"HGET {KEY} f",
    f"HGETALL {KEY}",
    f"HINCRBY {KEY} f 1",
    f"HKEYS {KEY}",
    f"HLEN {KEY}",
    f"HMGET {KEY} f",
    f"HSET {KEY} f v",
    f"HSETNX {KEY} f v",
    f"INCRBY {KEY} 1",
    f"LLEN {KEY}",
    f"LPUSH {KEY} v",
    f"LRANGE {KEY} 0 1",
    f"MGET {KEY}",
    "MULTI",
    f"PEXPIRE {KEY} 1",
    "PING",
    f"PSUBSCRIBE {CHANNEL}",
    f"PTTL {KEY}",
    f"PUBLISH {CHANNEL} m",
    f"RPOP {KEY}",
    f"RPUSH {KEY} v",
    f"SADD {KEY} v",
    "SCAN 0",
    f"SET {KEY} v",
    f"SETEX {KEY} 1 v",
    f"SMEMBERS {KEY}",
    f"SREM {KEY} v",
    f"SUBSCRIBE {CHANNEL}",
    "TIME",
    "UNSUBSCRIBE",
    f"WATCH {KEY}",
    f"XADD {KEY} * f v",
    f"XDEL {KEY} 1-1",
    f"XLEN {KEY}",
    f"XRANGE {KEY} - +",
    f"XREVRANGE {KEY} + -",
    f"XTRIM {KEY} MAXLEN 1",
    f"ZADD {KEY} 1 v",
    f"ZCARD {KEY}",
    f"ZRANGE {KEY} 0 1",
    f"ZRANGEBYSCORE {KEY} 0 1",
    f"ZREM {KEY} v",
    f"ZREMRANGEBYSCORE {KEY} 0 1",
    f"ZSCORE {KEY} v",
)
"""One of each command, with as many words as the server wants to see."""

_SCRIPT_LOAD = ("SCRIPT", "LOAD", "return 1")

BROKER = frozenset(
    [
        "BRPOP",
        "DEL",
        "EVAL",
        "EVALSHA",
        "EXEC",
        "EXISTS",
        "GET",
        "HDEL",
        "HGET",
        "HSET",
        "LLEN",
        "LPUSH",
        "LRANGE",
        "MULTI",
        "PEXPIRE",
        "PING",
        "PSUBSCRIBE",
        "PUBLISH",
        "RPOP",
        "RPUSH",
        "SADD",
        "SET",
        "SMEMBERS",
        "SREM",
        "SUBSCRIBE",
        "WATCH",
        "ZADD",
        "ZRANGE",
        "ZREM",
    ]
)
"""What kombu's transport and the agent do to a broker. Scripts' own commands count: the server checks those too."""

RESULTS = frozenset(
    (
        "DEL",
        "EXEC",
        "EXPIRE",
        "GET",
        "MGET",
        "MULTI",
        "PING",
        "PUBLISH",
        "SET",
        "SETEX",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "WATCH",
    )
)
"""What Celery's result backend and the agent do to single results; a chord's counters are not looked at."""

STORE = frozenset(
    [
        "DEL",
        "EVAL",
        "EVALSHA",
        "EXISTS",
        "EXPIRE",
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
        "PING",
        "PTTL",
        "PUBLISH",
        "RPUSH",
        "SCAN",
        "SET",
        "TIME",
        "XADD",
        "XDEL",
        "XLEN",
        "XRANGE",
        "XREVRANGE",
        "XTRIM",
        "ZADD",
        "ZCARD",
        "ZRANGE",
        "ZRANGEBYSCORE",
        "ZREM",
        "ZREMRANGEBYSCORE",
        "ZSCORE",
    ]
)
"""What the patterns do, the commands in their scripts included."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one connection's user must be allowed."""

    commands: frozenset[str]
    keys: dict[str, str]
    """Names that are really used, each with the pattern of an ACL that allows it."""
    channels: tuple[str, ...] = ()
    scripts: bool = False
    """Whether SCRIPT LOAD is used."""


def of_broker(app: Any, db: int) -> Needs:
    """What the broker's user needs: the queues by their names, kombu's own keys, events and remote control."""
    prefix = str((app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
    names = {f"{prefix}{queue}": f"{prefix}{queue}*" for queue in app.amqp.queues}
    for name, allowed in (
        ("unacked", "unacked*"),
        ("unacked_index", "unacked*"),
        ("unacked_mutex", "unacked*"),
        ("_kombu.binding.celery.pidbox", "_kombu.*"),
        ("0000.reply.celery.pidbox", "*.reply.celery.pidbox"),
    ):
        names[prefix + name] = prefix + allowed
    return Needs(BROKER, names, (f"{prefix}/{db}.celery.pidbox", f"{prefix}/{db}.celeryev/task.sent"), scripts=True)


def of_results(app: Any) -> Needs:
    """What the result backend's user needs."""
    name = app.backend.get_key_for_task("0").decode(errors="replace")
    allowed = name.removesuffix("0") + "*"
    return Needs(RESULTS, {name: allowed}, (name,))


def of_store(app: Any) -> Needs:
    """What the user of the patterns' store needs."""
    prefix = f"{{{patterns_of(app).store.settings.prefix}}}:"
    return Needs(STORE, {f"{prefix}task:0": f"{prefix}*"}, (f"{prefix}circuit:0:changes",), scripts=True)


def rights(client: Any, needs: Needs, whose: str) -> Iterator[Finding]:
    """Ask the server by dry runs (Redis 7, Valkey); an older one only by what can be tried without harm."""
    try:
        user = client.execute_command("ACL", "WHOAMI")
        user = user.decode() if isinstance(user, bytes) else str(user)
        commands, keys, channels = _refused(client, user, needs)
    except (NoPermissionError, ResponseError) as problem:
        yield _tried(client, needs, whose, str(problem))
        return
    if not commands and not keys and not channels:
        yield ok("acl", f"{whose}{user} may run the commands that are used, on the keys and channels that are used")
    if commands:
        granted = " ".join(f"+{command.lower()}" for command in commands)
        yield error("acl", f"{whose}{user} may not use {', '.join(commands)}", f"ACL SETUSER {user} {granted}")
    if keys:
        patterns = " ".join(f"~{pattern}" for pattern in sorted({needs.keys[key] for key in keys}))
        yield error("acl", f"{whose}{user} may not touch the keys {', '.join(keys)}", f"ACL SETUSER {user} {patterns}")
    if channels:
        yield error("acl", f"{whose}{user} may not use the channels {', '.join(channels)}", f"ACL SETUSER {user} &*")


def _refused(client: Any, user: str, needs: Needs) -> tuple[list[str], list[str], list[str]]:
    """Return the commands, keys and channels that this user is refused."""

    def refused(*words: str) -> str:
        """Return which of "run", a key or a channel the server objects to; empty: nothing."""
        answer = client.execute_command("ACL", "DRYRUN", user, *words)
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        return "" if answer is True or text == "OK" else text

    first = next(iter(needs.keys))
    told = {}
    for example in EXAMPLES:
        command, *arguments = example.split(" ")
        if command not in needs.commands:
            continue
        # EVAL's script is a word with a blank in it.
        words = ["return 0", "0"] if command == "EVAL" else arguments
        channel = needs.channels[0] if needs.channels else ""
        told[command] = refused(command, *(first if w == KEY else channel if w == CHANNEL else w for w in words))
    if needs.scripts:
        told["SCRIPT|LOAD"] = refused(*_SCRIPT_LOAD)
    commands = sorted(command for command, answer in told.items() if "permissions to run" in answer)
    # Reading and writing are allowed apart (%R~, %W~), so a key is asked of one command of each.
    probes = [("GET",), ("SET", "v"), ("DEL",), ("SMEMBERS",), ("LPUSH", "v"), ("HDEL", "f"), ("HGET", "f")]
    probes = [(command, *rest) for command, *rest in probes if command in told and command not in commands]
    keys = [key for key in needs.keys if any(refused(command, key, *rest) for command, *rest in probes)]
    may_publish = "PUBLISH" in told and "PUBLISH" not in commands
    channels = [name for name in needs.channels if may_publish and refused("PUBLISH", name, "m")]
    return commands, keys, channels


def _tried(client: Any, needs: Needs, whose: str, problem: str) -> Finding:
    """Judge a server before Redis 7, or a user that may not ask."""
    refused = []
    for words in (("EVAL", "return 1", "0"), ("SCRIPT LOAD", "return 1")) if needs.scripts else ():
        try:
            client.execute_command(*words)
        except RedisError:
            refused.append(words[0])
    if refused:
        granted = " ".join(f"+{command.replace(' ', '|').lower()}" for command in refused)
        return error("acl", f"{whose}this user may not use {', '.join(refused)}", f"ACL SETUSER ... {granted}")
    return unknown("acl", f"{whose}the rights of this user cannot be asked: {problem}", "ACL SETUSER ... +acl")
