"""A server without memory is told first and once, as the cause: nothing that follows from it, and doctor goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli.check_memory import memory
from celery_patterns.cli.doctor import examined
from celery_patterns.tasks import install
from servers import LOOPBACK, RedisKind, RedisServer, redis_server

pytestmark = pytest.mark.every_redis

ADVICE = "CONFIG SET maxmemory to more (and in redis.conf), or remove what fills it: old results, dead letters, queues"


@pytest.fixture(scope="module")
def full(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server("--maxmemory", "1", "--maxmemory-policy", "noeviction", kind=redis_kind) as server:
        with server.client() as client:
            execute: Any = client.execute_command
            execute("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info")
        yield server


def found(broker: str, backend: str, store: str) -> list[tuple[str, str, str]]:
    """Return level, check and message of what is not well, but for what says that there are no workers."""
    with install(Celery("shop", set_as_current=False, broker=broker, backend=backend), store=store) as app:
        return [(each.level, each.check, each.message) for each in examined(app) if each.level != "ok"]


def used_up(server: RedisServer, limit: str = "maxmemory, 0.0 MiB,") -> tuple[str, str, str]:
    message = f"{LOOPBACK}:{server.port}: {limit} is used up, and every write is refused: "
    return ("error", "memory", f"{message}nothing is sent, stored or taken from a queue")


def test_a_full_server_is_the_only_error_and_comes_first(full: RedisServer) -> None:
    said = found(full.url(0), full.url(1), full.url(2))
    assert said[0] == used_up(full)
    assert [each for each in said[1:] if each[0] == "error" or "OOM" in each[2] or each[1] == "workers"] == []


@pytest.mark.one_redis
@pytest.mark.usefixtures("quickly")
def test_it_is_told_too_if_only_results_or_only_the_store_are_there(full: RedisServer, redis: RedisServer) -> None:
    assert found(redis.url(0), full.url(1), redis.url(2))[0] == used_up(full)
    assert found(redis.url(0), redis.url(1), full.url(2))[0] == used_up(full)


def test_it_is_told_by_what_is_refused_if_info_is_forbidden(full: RedisServer) -> None:
    blind = [full.url(db).replace("redis://", "redis://blind:pw@") for db in range(3)]
    said = found(*blind)
    assert said[0] == used_up(full, "maxmemory")
    assert [each for each in said[1:] if each[0] == "error" or each[1] == "workers"] == []


@pytest.mark.parametrize(
    ("used", "uncounted", "policy", "check"),
    [
        (79, 0, "noeviction", None),
        (81, 0, "noeviction", "warning"),
        (100, 0, "noeviction", "warning"),
        (101, 0, "noeviction", "error"),
        (110, 10, "noeviction", "warning"),
        (101, 0, "allkeys-lru", "warning"),
    ],
)
@pytest.mark.one_redis
def test_a_server_is_full_as_the_server_itself_counts(
    redis: RedisServer, used: int, uncounted: int, policy: str, check: str | None
) -> None:
    info = {"maxmemory": 100, "used_memory": used, "mem_not_counted_for_evict": uncounted, "maxmemory_policy": policy}
    with redis.client() as client:
        said = [str(each.level) for each in memory(info, client, "") if each.check == "memory"]
    assert said == ([check] if check else [])


def test_the_advice_is_what_helps(full: RedisServer) -> None:
    with install(Celery("shop", set_as_current=False, broker=full.url(0)), store=full.url(2)) as app:
        assert examined(app)[0].advice == ADVICE
