"""The writes that a Redis without memory allows: what was taken is noted, or goes back, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import OutOfMemoryError

from celery_patterns.resilience.forced_writes import HOLD, PUSH, force
from servers import RedisKind, RedisServer, redis_server

pytestmark = pytest.mark.every_redis

TAGS = st.sampled_from(["a", "b", "c"])
Event = st.one_of(
    st.tuples(st.just("hold"), TAGS, st.integers(1, 2**40), st.binary(max_size=20)),
    st.tuples(st.just("RPUSH"), st.sampled_from(["q", "q\x063"]), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("LPUSH"), st.sampled_from(["q", "q\x063"]), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("ack"), TAGS),
)


@pytest.fixture
def full(redis_kind: RedisKind) -> Iterator[RedisServer]:
    """One without memory, of this test alone."""
    with redis_server("--maxmemory", "1", kind=redis_kind) as server:
        yield server


@pytest.mark.models(HOLD, PUSH)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, max_size=30))
def test_what_is_held_and_what_waits_is_that_of_a_redis_with_memory(full: RedisServer, events: list[Any]) -> None:
    """In any order, and as often as a delivery repeats: the last note of a tag counts, each push adds one message."""
    held: dict[str, tuple[int, bytes]] = {}
    lists: dict[str, list[bytes]] = {"q": [], "q\x063": []}
    with full.client() as connected:
        client: Any = connected
        client.flushdb()
        with pytest.raises(OutOfMemoryError):
            client.set("anything", "x")
        for name, *arguments in events:
            if name == "hold":
                tag, at, note = arguments
                assert force(client, HOLD, ["unacked", "unacked_index"], [tag, at, note])
                held[tag] = (at, note)
            elif name == "ack":
                client.zrem("unacked_index", *arguments)
                client.hdel("unacked", *arguments)
                held.pop(arguments[0], None)
            else:
                queue, message = arguments
                assert force(client, PUSH, [queue], [name, message])
                lists[queue].insert(len(lists[queue]) if name == "RPUSH" else 0, message)
        notes = {tag.decode(): note for tag, note in client.hgetall("unacked").items()}
        times = {tag.decode(): int(at) for tag, at in client.zrange("unacked_index", 0, -1, withscores=True)}
        assert (notes, times) == ({t: n for t, (_, n) in held.items()}, {t: a for t, (a, _) in held.items()})
        assert {queue: client.lrange(queue, 0, -1) for queue in lists} == lists


def test_a_user_who_may_run_no_scripts_is_told_so(redis: RedisServer) -> None:
    with redis.client(9) as client, redis.client(9) as poor:
        execute: Any = client.execute_command
        execute("ACL", "SETUSER", "poor", "reset", "on", "nopass", "~*", "+@all", "-@scripting")
        try:
            asked: Any = poor
            asked.execute_command("AUTH", "poor", "x")
            assert not force(poor, PUSH, ["of-nobody"], ["RPUSH", "x"])
            assert client.exists("of-nobody") == 0
        finally:
            execute("ACL", "DELUSER", "poor")
