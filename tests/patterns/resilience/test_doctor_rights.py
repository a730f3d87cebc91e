"""Doctor's word on a user's rights in Redis is that of the server, for the commands and names that are really used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli import check_rights, needed_rights
from celery_patterns.cli.needed_rights import Needs
from celery_patterns.tasks import install
from patterns.resilience.acl import allowed
from servers import RedisServer

WELL = "clerk may run the commands that are used, on the keys and channels that are used"
PACKAGE = Path(check_rights.__file__).parents[1]


@pytest.fixture
def app(redis: RedisServer) -> Celery:
    urls: dict[str, Any] = {"broker": redis.url(0), "backend": redis.url(1)}
    return install(Celery("shop", set_as_current=False, **urls), store=redis.url(2))


def said(redis: RedisServer, needs: list[Needs], *rules: str) -> list[tuple[str, str, str]]:
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
def needs(app: Celery, request: pytest.FixtureRequest) -> list[Needs]:
    made = {
        "broker": lambda: needed_rights.of_broker(app, 3),
        "results": lambda: needed_rights.of_results(app),
        "store": lambda: needed_rights.of_store(app),
    }
    return made[request.param]()


def test_a_user_with_exactly_what_is_needed_is_well(redis: RedisServer, needs: list[Needs]) -> None:
    assert said(redis, needs, *allowed(needs)) == [("ok", WELL, "")]


def test_each_single_command_that_is_missing_is_named_with_who_needs_it(redis: RedisServer, needs: list[Needs]) -> None:
    for command in sorted(frozenset().union(*(each.commands for each in needs))):
        found = said(redis, needs, *allowed(needs), f"-{command.lower()}")
        expected = [
            (
                str(each.lacking),
                f"clerk may not use {command}" + (f" (needed by {each.use})" if each.use else ""),
                f"ACL SETUSER clerk +{command.lower()}",
            )
            for each in needs
            if command in each.commands
        ]
        assert found == ([] if command in needs[0].commands else [("ok", WELL, "")]) + expected


def test_a_user_for_workers_alone_lacks_only_what_others_need(redis: RedisServer, needs: list[Needs]) -> None:
    found = said(redis, needs, *allowed(needs[:1]))
    assert found[0] == ("ok", WELL, "")
    assert {level for level, _, _ in found[1:]} == {str(each.lacking) for each in needs[1:]} <= {"warning", "unknown"}


def test_missing_keys_are_told_from_missing_commands(redis: RedisServer, app: Celery) -> None:
    """All commands are allowed, but only on keys of somebody else."""
    found = said(redis, needed_rights.of_store(app)[:1], "+@all", "~shop:*", "&*")
    assert found == [
        ("error", "clerk may not touch the keys {celery-patterns}:task:0", "ACL SETUSER clerk ~{celery-patterns}:*")
    ]


def test_only_the_key_patterns_that_are_missing_are_named(redis: RedisServer, app: Celery) -> None:
    rules = ["+@all", "&*", "~celery*", "~unacked*", "~*.celery.pidbox*"]
    found = said(redis, needed_rights.of_broker(app, 0)[:1], *rules)
    assert found == [("error", "clerk may not touch the keys _kombu.binding.celeryev", "ACL SETUSER clerk ~_kombu.*")]


def test_a_missing_channel_is_named(redis: RedisServer, app: Celery) -> None:
    found = said(redis, needed_rights.of_results(app)[:1], "+@all", "~*", "resetchannels")
    assert found == [
        (
            "error",
            "clerk may not use the channels celery-task-meta-0, celery-taskset-meta-0",
            "ACL SETUSER clerk &celery-task-meta-* &celery-taskset-meta-*",
        )
    ]


LISTS = {
    "broker": needed_rights.KOMBU | needed_rights.LEASES | needed_rights.MESSAGES_SEEN,
    "results": needed_rights.RESULTS | needed_rights.ORDERED | needed_rights.UNORDERED | needed_rights.CLAIMS,
    "store": needed_rights.STORE | needed_rights.STORE_SEEN,
}
SCRIPTS = {"agent/lease.py": "broker", "resilience/forced_writes.py": "broker", "agent/store.py": "results"}
"""Modules whose scripts run elsewhere than in the store, as those of all others do."""


def called(whose: str) -> set[str]:
    """Return what the scripts of this package call there, read from their text."""
    return {
        command.upper()
        for module in PACKAGE.rglob("*.py")
        if SCRIPTS.get(str(module.relative_to(PACKAGE)), "store") == whose
        for command in re.findall(r"redis\.p?call\('(\w+)'", module.read_text())
    }


def test_every_command_of_a_script_is_asked_for() -> None:
    """A new command has to be in the list."""
    found = {whose: called(whose) for whose in LISTS}
    assert {whose: len(commands) > 1 for whose, commands in found.items()} == dict.fromkeys(LISTS, True)
    assert [commands - LISTS[whose] for whose, commands in found.items()] == [set()] * 3


def test_every_command_of_the_patterns_store_is_used_by_a_script_or_a_call() -> None:
    """What nothing uses any more has to leave the list."""
    text = "\n".join(module.read_text() for module in PACKAGE.rglob("*.py") if "/cli/" not in str(module))
    methods = set(re.findall(r"(?:client|listening)\.(\w+)", text))
    spelled = {name.upper().replace("SCAN_ITER", "SCAN").replace("DELETE", "DEL") for name in methods}
    # The command bench, which is left out with the others, measures by PING.
    assert LISTS["store"] - called("store") - spelled == {"PING"}


def test_every_command_has_an_example_of_its_words() -> None:
    optional = {"SELECT", "CLIENT|SETNAME"}
    operators = needed_rights.OPERATOR_SENDS | needed_rights.OPERATOR_FOLLOWS
    assert set(check_rights.EXAMPLES) == optional.union(operators, *LISTS.values())
