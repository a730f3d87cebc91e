"""Users of a Redis who may do what doctor says is needed, and nothing else; and what they were denied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from celery_patterns.cli import check_rights
from celery_patterns.cli.needed_rights import Needs
from servers import RedisServer


def allowed(needs: Iterable[Needs]) -> list[str]:
    """Return the rules that allow exactly what is needed."""
    needs = list(needs)
    commands = frozenset[str]().union(*(each.commands for each in needs))
    patterns = {pattern for each in needs for pattern in each.keys.values()}
    channels = {channel.rule for each in needs for channel in each.channels}
    return [
        *(f"+{each.lower()}" for each in sorted(commands)),
        *(f"~{pattern}" for pattern in sorted(patterns)),
        *(f"&{rule}" for rule in sorted(channels)),
    ]


def add_user(redis: RedisServer, name: str, needs: Iterable[Needs]) -> None:
    """Make a user, with the password ``pw``, by the very lines that doctor prints for one who may do nothing."""
    asking = ("+acl|whoami", "+acl|dryrun")
    with redis.client() as admin, redis.client() as client:
        execute, asked = cast("Any", admin).execute_command, cast("Any", client)
        execute("ACL", "SETUSER", name, "reset", "on", ">pw", *asking)
        asked.execute_command("AUTH", name, "pw")
        for finding in list(check_rights.rights(asked, needs, "")):
            execute(*finding.advice.split(" "))
        execute("ACL", "SETUSER", name, *(each.replace("+", "-") for each in asking))


def url_of(redis: RedisServer, name: str, db: int) -> str:
    """Return a database's URL with such a user."""
    return redis.url(db).replace("redis://", f"redis://{name}:pw@")


PASSED_OVER = "client|setinfo"
"""What redis-py says of itself to servers that know this command; it goes on where that is refused."""


def denied(redis: RedisServer) -> set[tuple[str, str, str]]:
    """Return what the server has refused since this was last asked: user, reason, and command, key or channel."""
    with redis.client() as client:
        admin: Any = client
        found = {(each["username"], each["reason"], each["object"]) for each in admin.acl_log()}
        admin.acl_log_reset()
    return {(user, reason, what) for user, reason, what in found if what != PASSED_OVER}
