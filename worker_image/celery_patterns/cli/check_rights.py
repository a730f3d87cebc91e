"""What doctor asks of Redis's access rules: may this user run the commands, on the keys and channels that are used?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, RedisError, ResponseError

from celery_patterns.cli.findings import Finding, Level, error, ok, unknown
from celery_patterns.cli.needed_channels import Channel
from celery_patterns.cli.needed_rights import Needs

KEY, CHANNEL = "<key>", "<channel>"
"""Stand for a name in an example of a command."""

RUN = "permissions to run"
"""In the answer about a command that is refused whatever it is used on."""

EXAMPLES = {
    example.split(" ")[0]: tuple(example.split(" "))
    for example in (
        f"BRPOP {KEY} 0",
        f"DEL {KEY}",
        "EVALSHA 0 0",
        "EXEC",
        f"EXISTS {KEY}",
        f"EXPIRE {KEY} 1",
        f"GET {KEY}",
        f"GETRANGE {KEY} 0 1",
        f"HDEL {KEY} f",
        f"HEXISTS {KEY} f",
        f"HGET {KEY} f",
        f"HGETALL {KEY}",
        f"HINCRBY {KEY} f 1",
        f"HKEYS {KEY}",
        f"HLEN {KEY}",
        f"HMGET {KEY} f",
        f"HSCAN {KEY} 0",
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
        "PUNSUBSCRIBE",
        f"RPUSH {KEY} v",
        f"SADD {KEY} v",
        "SCAN 0",
        "SELECT 0",
        f"SET {KEY} v",
        f"SETEX {KEY} 1 v",
        f"SISMEMBER {KEY} v",
        f"SMEMBERS {KEY}",
        f"SREM {KEY} v",
        f"STRLEN {KEY}",
        f"SUBSCRIBE {CHANNEL}",
        "TIME",
        f"TYPE {KEY}",
        "UNSUBSCRIBE",
        "UNWATCH",
        f"WATCH {KEY}",
        f"XADD {KEY} * f v",
        f"XDEL {KEY} 1-1",
        f"XLEN {KEY}",
        f"XRANGE {KEY} - +",
        f"XREVRANGE {KEY} + -",
        f"XTRIM {KEY} MAXLEN 1",
        f"ZADD {KEY} 1 v",
        f"ZCARD {KEY}",
        f"ZCOUNT {KEY} 0 1",
        f"ZRANGE {KEY} 0 1",
        f"ZRANGEBYSCORE {KEY} 0 1",
        f"ZREM {KEY} v",
        f"ZREMRANGEBYSCORE {KEY} 0 1",
        f"ZSCORE {KEY} v",
    )
} | {
    "CLIENT|SETNAME": ("CLIENT", "SETNAME", "n"),
    "EVAL": ("EVAL", "return 0", "0"),
    "SCRIPT|EXISTS": ("SCRIPT", "EXISTS", "0"),
    "SCRIPT|LOAD": ("SCRIPT", "LOAD", "return 1"),
}
"""One of each command, with as many words as the server wants to see."""

PROBES = ("GET", "SET", "DEL", "SMEMBERS", "LPUSH", "HDEL", "HGET", "HEXISTS", "ZREMRANGEBYSCORE", "LRANGE", "XDEL")
"""Reading and writing are allowed apart (%R~, %W~), so a key is asked of some commands of each sort."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a user may not do."""

    what: str
    """Such as "use"."""
    names: list[str]
    """Commands, keys or channels."""
    rules: list[str]
    """Of an ACL, which would allow it."""
    why: str = ""
    """Who needs it, and how to do without."""
    level: Level = Level.ERROR


def rights(client: Any, needed: Iterable[Needs], whose: str) -> Iterator[Finding]:
    """Ask the server by dry runs (Redis 7, Valkey); an older one only by what can be tried without harm.

    Args:
        client: A connection of the user whose rights these are.
        needed: What is needed, by use; the first is what nothing runs without.
        whose: Begins each message.
    """
    for number, needs in enumerate(needed):
        try:
            user = client.execute_command("ACL", "WHOAMI")
            user = user.decode() if isinstance(user, bytes) else str(user)
            refused = list(_refused(client, user, needs))
        except (NoPermissionError, ResponseError) as problem:
            yield _tried(client, needs, whose, problem)
            return
        found = [_finding(whose, user, each) for each in refused]
        yield from found
        if not number and not found:
            yield ok("acl", f"{whose}{user} may run the commands that are used, on the keys and channels that are used")


def _finding(whose: str, user: str, refusal: Refusal) -> Finding:
    why = f" ({refusal.why})" if refusal.why else ""
    message = f"{whose}{user} may not {refusal.what} {', '.join(refusal.names)}{why}"
    return Finding(refusal.level, "acl", message, f"ACL SETUSER {user} {' '.join(refusal.rules)}")


def _refused(client: Any, user: str, needs: Needs) -> Iterator[Refusal]:
    """Yield what this user is refused."""

    def refused(*words: str) -> str:
        """Return which of "run", a key or a channel the server objects to; empty: nothing."""
        answer = client.execute_command("ACL", "DRYRUN", user, *words)
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        return "" if answer is True or text == "OK" else text

    why = f"needed by {needs.use}" if needs.use else ""
    stand_ins = {KEY: next(iter(needs.keys)), CHANNEL: ""}
    told = {command: refused(*(stand_ins.get(word, word) for word in EXAMPLES[command])) for command in needs.commands}
    commands = sorted(command for command, answer in told.items() if RUN in answer)
    if commands:
        yield Refusal("use", commands, [f"+{command.lower()}" for command in commands], why, needs.lacking)
    probes = [EXAMPLES[command] for command in PROBES if command in told and command not in commands]
    # Who may run nothing on a key is not told which keys those are: then all are named, so that one call says it all.
    blind = not any(KEY in EXAMPLES[command] for command in needs.commands.difference(commands))
    keys = [
        key
        for key in needs.keys
        if blind or any(refused(*(key if word == KEY else word for word in probe)) for probe in probes)
    ]
    if keys:
        patterns = sorted({needs.keys[key] for key in keys})
        yield Refusal("touch the keys", keys, [f"~{pattern}" for pattern in patterns], why, needs.lacking)
    for channel in needs.channels:
        answers = [
            refused(*(name if word == CHANNEL else word for word in EXAMPLES[command]))
            for command, name in channel.asked
        ]
        if blind or any(answer and RUN not in answer for answer in answers):
            yield _unheard(channel)


def _unheard(channel: Channel) -> Refusal:
    why = f"needed only by {channel.use}; may be left out {channel.without}" if channel.use else ""
    return Refusal("use the channel", [channel.rule], [f"&{channel.rule}"], why, channel.lacking)


def asking(user: str, needs: Needs) -> str:
    """Return the line that lets a user connect and ask for its rights."""
    connecting = " ".join(f"+{command.lower()}" for command in sorted(needs.commands & {"PING", "SELECT"}))
    return f"ACL SETUSER {user} {connecting} +acl|whoami +acl|dryrun".replace("  ", " ")


def _tried(client: Any, needs: Needs, whose: str, problem: Exception) -> Finding:
    """Judge a server before Redis 7, or a user that may not ask."""
    refused = []
    for command in ("EVAL", "EVALSHA", "SCRIPT|LOAD"):
        if command not in needs.commands:
            continue
        try:
            client.execute_command(*EXAMPLES[command])
        except (NoScriptError, OutOfMemoryError):  # it was allowed to ask for one
            continue
        except RedisError:
            refused.append(command)
    user = client.connection_pool.connection_kwargs.get("username") or "default"
    if refused:
        granted = " ".join(f"+{command.lower()}" for command in refused)
        line = asking(user, needs) if isinstance(problem, NoPermissionError) else f"ACL SETUSER {user}"
        return error("acl", f"{whose}{user} may not use {', '.join(refused)}", f"{line} {granted}")
    return unknown("acl", f"{whose}the rights of {user} cannot be asked: {problem}", asking(user, needs))
