"""What doctor says of a database is true of what it looked at, and it says how much that was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli import check_redis
from celery_patterns.cli.findings import Finding
from servers import RedisServer

pytestmark = pytest.mark.every_redis

DATABASE = 13


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    with redis.client(DATABASE) as opened:
        opened.flushdb()
        yield opened
        opened.flushdb()


def said(client: Any) -> tuple[str, str]:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    finding: Finding = check_redis._keys(app, client, DATABASE)
    return finding.level, finding.message


def fill(client: Any, number: int) -> None:
    client.mset({f"celery-task-meta-{index}": "{}" for index in range(number)})


def test_a_small_database_is_seen_whole_however_many_scans_that_takes(client: Any) -> None:
    fill(client, check_redis.KEYS_LOOKED_AT - check_redis.KEYS_AT_ONCE)
    assert said(client) == ("ok", "database 13 has only Celery's keys")
    client.set("sessions:7", "of another application")
    assert said(client) == ("warning", "database 13 has 1 keys that are not Celery's, e.g. sessions:7")


def test_of_a_large_database_only_the_sample_is_spoken_of(client: Any) -> None:
    total = 10 * check_redis.KEYS_LOOKED_AT
    fill(client, total)
    level, message = said(client)
    assert level == "ok"
    assert message.startswith("a sample of ")
    assert message.endswith(f" of {total} keys in database 13 has only Celery's keys")


def test_a_database_that_may_not_be_looked_at_is_unknown(client: Any, redis: RedisServer) -> None:
    client.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-scan")
    try:
        with redis.client(DATABASE) as opened:
            blind: Any = opened
            blind.execute_command("AUTH", "blind", "pw")
            level, message = said(blind)
    finally:
        client.execute_command("ACL", "DELUSER", "blind")
    assert level == "unknown"
    assert message.startswith("the keys of database 13 cannot be seen: ")


def test_an_empty_queue_of_another_application_is_seen(client: Any, redis: RedisServer) -> None:
    """Both have bound their queue and emptied it: of the own one nothing is said."""
    app = Celery("shop", broker=redis.url(DATABASE), set_as_current=False)
    for queue in ("celery", "billing"):
        with app.connection_for_write() as connection:
            app.amqp.queues.select_add(queue).bind(connection.default_channel).declare()
    fresh = Celery("shop", broker=redis.url(DATABASE), set_as_current=False)
    found = [(each.level, each.message) for each in check_redis._strange_queues(fresh, client, DATABASE)]
    assert found == [("warning", "database 13 has queues that this application does not name: billing (1)")]
