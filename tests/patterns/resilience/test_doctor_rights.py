"""Doctor's word on a user's rights in Redis is that of the server, for the commands and names that are really used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli import check_rights
from celery_patterns.tasks import install
from servers import RedisServer

PACKAGE = Path(check_rights.__file__).parents[1]


@pytest.fixture
def app(redis: RedisServer) -> Celery:
    urls: dict[str, Any] = {"broker": redis.url(0), "backend": redis.url(1)}
    return install(Celery("shop", set_as_current=False, **urls), store=redis.url(2))


def said(redis: RedisServer, needs: check_rights.Needs, *rules: str) -> list[tuple[str, str, str]]:
    """Return level, message and advice about a user with these rights."""
    with redis.client() as admin:
        execute: Any = admin.execute_command
        execute("ACL", "SETUSER", "clerk", "reset", "on", ">pw", "+acl|whoami", "+acl|dryrun", *rules)
        try:
            with redis.client() as client:
                asked: Any = client
                asked.execute_command("AUTH", "clerk", "pw")
                return [(each.level, each.message, each.advice) for each in check_rights.rights(asked, needs, "")]
        finally:
            execute("ACL", "DELUSER", "clerk")


@pytest.fixture(params=["broker", "results", "store"])
def needs(app: Celery, request: pytest.FixtureRequest) -> check_rights.Needs:
    made = {
        "broker": lambda: check_rights.of_broker(app, 0),
        "results": lambda: check_rights.of_results(app),
        "store": lambda: check_rights.of_store(app),
    }
    return made[request.param]()


def allowed(needs: check_rights.Needs) -> list[str]:
    """Return the rules that allow exactly what is needed."""
    commands = [f"+{command.lower()}" for command in sorted(needs.commands)]
    return [*commands, "+script|load", "&*", *(f"~{pattern}" for pattern in needs.keys.values())]


def test_a_user_with_exactly_what_is_needed_is_well(redis: RedisServer, needs: check_rights.Needs) -> None:
    message = "clerk may run the commands that are used, on the keys and channels that are used"
    assert said(redis, needs, *allowed(needs)) == [("ok", message, "")]


def test_each_single_command_that_is_missing_is_named(redis: RedisServer, needs: check_rights.Needs) -> None:
    for command in sorted(needs.commands):
        found = said(redis, needs, *allowed(needs), f"-{command.lower()}")
        assert found == [("error", f"clerk may not use {command}", f"ACL SETUSER clerk +{command.lower()}")]


def test_missing_keys_are_told_from_missing_commands(redis: RedisServer, app: Celery) -> None:
    """All commands are allowed, but only on keys of somebody else."""
    found = said(redis, check_rights.of_store(app), "+@all", "~shop:*", "&*")
    assert found == [
        ("error", "clerk may not touch the keys {celery-patterns}:task:0", "ACL SETUSER clerk ~{celery-patterns}:*")
    ]


def test_only_the_key_patterns_that_are_missing_are_named(redis: RedisServer, app: Celery) -> None:
    rules = ["+@all", "&*", "~celery*", "~unacked*", "~*.reply.celery.pidbox"]
    found = said(redis, check_rights.of_broker(app, 0), *rules)
    assert found == [
        ("error", "clerk may not touch the keys _kombu.binding.celery.pidbox", "ACL SETUSER clerk ~_kombu.*")
    ]


def test_a_missing_channel_is_named(redis: RedisServer, app: Celery) -> None:
    found = said(redis, check_rights.of_results(app), "+@all", "~*", "resetchannels")
    assert found == [("error", "clerk may not use the channels celery-task-meta-0", "ACL SETUSER clerk &*")]


def test_every_command_of_a_script_is_asked_for() -> None:
    """What the scripts of this package call is read from their text; a new command has to be in the list."""
    called = {
        command.upper()
        for module in PACKAGE.rglob("*.py")
        for command in re.findall(r"redis\.p?call\('(\w+)'", module.read_text())
    }
    assert len(called) > 20
    assert called - check_rights.STORE - check_rights.BROKER == set()


def test_every_command_has_an_example_of_its_words() -> None:
    words = {example.split(" ")[0] for example in check_rights.EXAMPLES}
    assert words == check_rights.BROKER | check_rights.RESULTS | check_rights.STORE
