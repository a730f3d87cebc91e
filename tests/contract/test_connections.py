"""Connections are shared while somebody uses them, and closed when nobody has for long."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from celery_operator.adapters.connections import IDLE_SECONDS, CeleryConnections
from celery_operator.domain.errors import SpecError
from fakes.clock import FakeClock
from servers import RedisServer, eventually


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def connected(redis: RedisServer, database: int) -> int:
    """Return how many clients the server has on a database."""
    with redis.client(15) as client:
        clients: Any = client.client_list()
    return sum(str(each["db"]) == str(database) for each in clients)


async def test_one_url_is_one_object_as_long_as_somebody_has_it(
    connections: CeleryConnections, redis: RedisServer
) -> None:
    broker, backend = connections.broker(redis.url(11)), connections.result_backend(redis.url(12))
    assert connections.broker(redis.url(11)) is broker
    assert connections.result_backend(redis.url(12)) is backend
    assert connections.broker(redis.url(12)) is not broker


async def test_what_nobody_has_used_for_long_is_closed_and_opens_again(
    connections: CeleryConnections, clock: FakeClock, redis: RedisServer
) -> None:
    kept = connections.broker(redis.url(11))
    assert await kept.waiting(["q"]) == {"q": 0}
    await connections.result_backend(redis.url(12)).check()
    clock.advance(IDLE_SECONDS - 1)
    await connections.result_backend(redis.url(12)).check()
    await connections.close_idle()
    assert (connected(redis, 11), connected(redis, 12)) == (1, 1), "not idle for long enough"
    clock.advance(1)
    await connections.close_idle()
    assert (connected(redis, 11), connected(redis, 12)) == (0, 1)
    assert await kept.waiting(["q"]) == {"q": 0}, "whoever kept it may go on"
    assert connections.broker(redis.url(11)) is kept
    clock.advance(IDLE_SECONDS)
    await connections.close_idle()
    assert (connected(redis, 11), connected(redis, 12)) == (0, 0)


async def test_what_is_used_again_in_the_moment_of_closing_answers_and_is_closed_later(
    connections: CeleryConnections, clock: FakeClock, redis: RedisServer
) -> None:
    broker = connections.broker(redis.url(11))
    await broker.waiting(["q"])
    clock.advance(IDLE_SECONDS)
    closed = asyncio.create_task(connections.close_idle())
    used = asyncio.create_task(broker.waiting(["q"]))
    assert await used == {"q": 0}
    await closed
    again = connections.broker(redis.url(11))
    clock.advance(IDLE_SECONDS)
    await connections.close_idle()
    assert connected(redis, 11) == 0
    assert again is broker


async def test_listening_is_using(connections: CeleryConnections, clock: FakeClock, redis: RedisServer) -> None:
    heard = connections.result_backend(redis.url(12)).announcements()
    assert await anext(heard) == ()
    clock.advance(2 * IDLE_SECONDS)
    await connections.close_idle()
    assert connected(redis, 12) == 1
    await heard.aclose()  # type: ignore[attr-defined] # it is a generator
    clock.advance(IDLE_SECONDS)
    await connections.close_idle()
    assert connected(redis, 12) == 0


async def test_nothing_is_remembered_of_urls_that_nobody_uses_any_more(
    connections: CeleryConnections, clock: FakeClock, redis: RedisServer
) -> None:
    """A password that changes every hour must not fill the operator's memory."""
    for number in range(20):
        await connections.broker(redis.url(11) + f"?client_name=c{number}").waiting([])
    clock.advance(IDLE_SECONDS)
    await connections.close_idle()
    gc.collect()
    assert (len(connections._brokers), len(connections._open)) == (0, 0)


async def test_idle_connections_are_looked_for_without_being_asked(
    connections: CeleryConnections, clock: FakeClock, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_operator.adapters.connections.LOOK_SECONDS", 0.02)
    await connections.broker(redis.url(11)).waiting([])
    clock.advance(IDLE_SECONDS)
    await asyncio.to_thread(eventually, lambda: connected(redis, 11) == 0, what="the connection to be closed")


async def test_a_url_that_cannot_be_served_is_refused_before_it_is_used(connections: CeleryConnections) -> None:
    with pytest.raises(SpecError, match="no broker of kind sqs:// is served"):
        connections.broker("sqs://x")
    with pytest.raises(SpecError, match="no result backend of kind amqp:// is served"):
        connections.result_backend("amqp://x")
