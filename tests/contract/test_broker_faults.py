"""Brokers that are away, silent or closed to us: each is an error of its kind, within seconds, and it heals."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any

import pytest

from celery_operator.adapters.connections import CeleryConnections
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import BrokerError
from celery_operator.services.ports import Broker
from contract.publishing import message
from servers import LOOPBACK, RabbitServer, RedisKind, RedisServer, free_port, redis_server


async def _fails(broker: Broker, queue: str) -> list[BrokerError]:
    """Every method says so within four seconds, and none answers 0."""
    calls = (broker.waiting([queue]), broker.waiting([]), broker.publish([message(queue)]), broker.revoke(["x"]))
    async with asyncio.timeout(4):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BrokerError)]
    assert len(errors) == len(calls), answers
    return errors


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_refuses_connections_is_an_error(scheme: str, connections: CeleryConnections) -> None:
    port = free_port()
    broker = connections.broker(f"{scheme}://me:secret@{LOOPBACK}:{port}/0")
    for error in await _fails(broker, "q"):
        assert error.reason == Reason.CONNECTION_FAILED
        assert f"{scheme}://***@{LOOPBACK}:{port}/0" in error.message
        assert "secret" not in error.message


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_accepts_and_says_nothing_is_an_error(
    scheme: str, connections: CeleryConnections, silent_port: int
) -> None:
    broker = connections.broker(f"{scheme}://{LOOPBACK}:{silent_port}/0")
    for error in await _fails(broker, "q"):
        assert error.reason == Reason.CONNECTION_FAILED


@pytest.mark.every_redis
async def test_a_redis_that_stops_is_unknown_and_heals(
    redis_kind: RedisKind, connections: CeleryConnections, queue: str
) -> None:
    with redis_server(kind=redis_kind) as server:
        broker = connections.broker(server.url())
        await broker.publish([message(queue)])
        assert await broker.waiting([queue]) == {queue: 1}
        server.stop()
        await _fails(broker, queue)
        server.start()
        await broker.publish([message(queue)])
        assert await broker.waiting([queue]) == {queue: 1}


async def test_a_closed_amqp_connection_heals(
    rabbitmq: RabbitServer, connections: CeleryConnections, queue: str
) -> None:
    broker: Any = connections.broker(rabbitmq.url())
    await broker.publish([message(queue)])
    assert await broker.waiting([queue]) == {queue: 1}
    with broker.use() as opened:
        for session in (opened._reading, opened._publishing):
            session._connection.transport.sock.shutdown(2)
    with pytest.raises(BrokerError):
        await broker.waiting([queue])
    with pytest.raises(BrokerError):
        await broker.publish([message(queue)])
    assert await broker.waiting([queue]) == {queue: 1}
    await broker.publish([message(queue)])
    assert await broker.waiting([queue]) == {queue: 2}


def _with_password(kind: RedisKind) -> AbstractContextManager[RedisServer]:
    return redis_server("--user", "someone", "on", ">right", "~*", "&*", "+@all", kind=kind)


@pytest.mark.every_redis
@pytest.mark.parametrize("credentials", ["someone:wrong", "nobody:x"])
async def test_refused_credentials_have_their_own_reason(
    credentials: str, redis_kind: RedisKind, connections: CeleryConnections
) -> None:
    with _with_password(redis_kind) as server:
        broker = connections.broker(f"redis://{credentials}@{LOOPBACK}:{server.port}/0")
        for error in await _fails(broker, "q"):
            assert error.reason == Reason.AUTHENTICATION_FAILED
            assert credentials not in error.message


async def test_rabbitmq_refusing_credentials_has_its_own_reason(
    rabbitmq: RabbitServer, connections: CeleryConnections
) -> None:
    broker = connections.broker(f"amqp://guest:wrong-secret@{LOOPBACK}:{rabbitmq.port}//")
    for error in await _fails(broker, "q"):
        assert error.reason == Reason.AUTHENTICATION_FAILED
        assert "wrong-secret" not in error.message
