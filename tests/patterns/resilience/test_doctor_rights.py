"""Doctor's word on a user's rights in Redis is that of the server, for the commands and names that are really used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import common, entity

from celery_patterns.cli import check_rights, needed_channels, needed_rights
from celery_patterns.cli.doctor import examined
from celery_patterns.cli.needed_rights import Needs
from celery_patterns.tasks import install
from patterns.resilience.acl import allowed
from servers import RedisServer

broadcast: Any = common.Broadcast
exchange: Any = entity.Exchange
queue: Any = entity.Queue
WELL = "clerk may run the commands that are used, on the keys and channels that are used"
WELL_ENOUGH = {"persistence", "visibility", "recovery", "acks-late", "time-limit"}
"""What doctor says besides of a server without persistence and an application without settings."""
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


def test_each_single_channel_that_is_missing_is_named_with_what_alone_needs_it(
    redis: RedisServer, needs: list[Needs]
) -> None:
    for rule in {channel.rule for each in needs for channel in each.channels}:
        rules = [each for each in allowed(needs) if each != f"&{rule}"]
        found = [each for each in said(redis, needs, *rules) if each[1] != WELL]
        expected = [
            (
                str(channel.lacking),
                f"clerk may not use the channel {rule}"
                + (f" (needed only by {channel.use}; may be left out {channel.without})" if channel.use else ""),
                f"ACL SETUSER clerk &{rule}",
            )
            for each in needs
            for channel in each.channels
            if channel.rule == rule
        ]
        assert found == expected


def test_the_lines_for_who_may_do_nothing_allow_exactly_what_is_needed(redis: RedisServer, needs: list[Needs]) -> None:
    lines = [advice for _, _, advice in said(redis, needs)]
    assert {line.split(" ")[:3] == ["ACL", "SETUSER", "clerk"] for line in lines} == {True}
    assert {rule for line in lines for rule in line.split(" ")[3:]} == set(allowed(needs))


@pytest.mark.usefixtures("quickly")
def test_whoever_may_not_even_connect_has_all_rights_after_two_calls(redis: RedisServer) -> None:
    """The first says how to ask for rights, the second which are missing, and the third that none is."""
    with redis.client() as admin:
        execute: Any = admin.execute_command
        execute("ACL", "SETUSER", "novice", "reset", "on", ">pw")
        broker, backend, store = (redis.url(db).replace("redis://", "redis://novice:pw@") for db in (4, 5, 6))
        told = []
        for _ in range(3):
            with install(Celery("shop", set_as_current=False, broker=broker, backend=backend), store=store) as app:
                found = examined(app)
            told.append([(each.check, str(each.level)) for each in found if each.level in ("error", "warning")])
            for line in (each.advice for each in found if each.advice.startswith("ACL SETUSER novice ")):
                execute(*line.split(" "))
        execute("ACL", "DELUSER", "novice")
    assert ("broker", "error") in told[0]
    assert {check for check, _ in told[1]} >= {"acl"}
    assert {check for check, _ in told[2]} <= WELL_ENOUGH
    assert [each for each in told[2] if each[1] == "error"] == []


def channels(app: Celery, db: int = 3, **options: Any) -> list[str]:
    app.conf.broker_transport_options = options
    return [each.rule for each in needed_channels.of_broker(app, db)]


def test_channels_of_the_broker_follow_the_applications_settings(app: Celery) -> None:
    assert channels(app) == ["/3.celery.pidbox", "/3.celeryev/worker.*", "/3.celeryev/*"]
    assert channels(app, global_keyprefix="s:", fanout_patterns=False) == [
        "s:/3.celery.pidbox",
        "s:/3.celeryev",
        "s:/3.celeryev",
    ]
    assert channels(app, fanout_prefix=False)[0] == "celery.pidbox"
    assert channels(app, fanout_prefix="all-{db}-")[0] == "all-3-celery.pidbox"
    assert channels(app, sentinel_fanout_compat=True)[:2] == ["/3.celery.pidbox", "/{db}.celery.pidbox"]
    app.conf.update(control_exchange="ctl", event_exchange="evt", event_queue_prefix="evq")
    assert channels(app) == ["/3.ctl.pidbox", "/3.evt/worker.*", "/3.evt/*"]
    keys = needed_rights.of_broker(app, 3)[0].keys
    assert {"_kombu.binding.evt", "worker@host.ctl.pidbox", "0000.reply.ctl.pidbox", "evq.0000"} <= keys.keys()


def test_without_remote_control_its_channel_is_no_error(app: Celery) -> None:
    assert needed_channels.of_broker(app, 0)[0].lacking == "error"
    app.conf.worker_enable_remote_control = False
    assert needed_channels.of_broker(app, 0)[0].lacking == "warning"


def test_a_queue_that_all_listen_to_has_its_channel_and_a_key_pattern_for_each_process(app: Celery) -> None:
    app.conf.task_queues = [broadcast("news"), queue("hot", exchange("alerts", "fanout"), "eu.#")]
    told = needed_channels.of_broker(app, 3)[3:]
    assert [(each.rule, each.asked, each.lacking) for each in told] == [
        ("/3.news/celery", (("PSUBSCRIBE", "/3.news/celery"), ("PUBLISH", "/3.news/celery")), "error"),
        ("/3.alerts/eu.*", (("PSUBSCRIBE", "/3.alerts/eu.*"), ("PUBLISH", "/3.alerts/eu.0")), "error"),
    ]
    assert "bcast.*" in needed_rights.of_broker(app, 3)[0].keys.values()


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
