"""What workers announce is heard, through whatever happens to server and connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from celery_operator.adapters.result_backend import RedisResultBackend
from celery_operator.domain.errors import ResultBackendError
from celery_operator.services.ports import ResultBackend
from celery_patterns.protocol import Announcement, TaskIdentity, announce_channel
from contract.claims import guard
from contract.patience import until
from contract.stalling_proxy import Proxy
from servers import LOOPBACK, RedisKind, RedisServer, redis_server

pytestmark = pytest.mark.every_redis


def announcement(index: int) -> Announcement:
    identity = TaskIdentity(uid="11111111-2222-4333-8444-555555555555", run=1, step="s", index=index, attempt=1)
    return Announcement(identity, "SUCCESS", size=3, value=index, has_value=True, worker="w")


class Listener:
    """Collects batches; ``connections`` counts the empty ones that mark a (new) subscription."""

    def __init__(self, backend: ResultBackend) -> None:
        self.connections = 0
        self.heard: list[Announcement] = []
        self._task = asyncio.create_task(self._listen(backend))

    async def _listen(self, backend: ResultBackend) -> None:
        async for batch in backend.announcements():
            self.connections += not batch
            self.heard += batch

    async def connected(self, times: int = 1) -> None:
        await until(self._has(lambda: self.connections >= times))

    async def has_heard(self, count: int) -> list[Announcement]:
        await until(self._has(lambda: len(self.heard) >= count))
        return self.heard

    def _has(self, fact: Any) -> Any:
        async def ask() -> bool:
            assert not self._task.done(), self._task
            return bool(fact())

        return ask

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def listening(backend: ResultBackend) -> AsyncIterator[Listener]:
    """Listen, from when the subscription stands."""
    listener = Listener(backend)
    try:
        await listener.connected()
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisResultBackend]:
    """Open a backend of one's own."""
    backend = RedisResultBackend(url, **options)
    try:
        yield backend
    finally:
        await backend.close()


async def test_announcements_arrive_after_an_empty_batch_and_nothing_malformed_stops_them(
    backend: ResultBackend, celery_backend: Any
) -> None:
    async with listening(backend) as listener:
        with guard(celery_backend) as store:
            endless = {**announcement(0).to_json(), "n": float("inf")}
            odd = [endless, {"i": {**endless["i"], "run": float("inf")}, "s": "SUCCESS"}]
            for text in (
                "no json",
                "{}",
                "3",
                "[" * 200_000,
                json.dumps([{"i": 5}, None, *odd, announcement(0).to_json()]),
            ):
                store.publish(text)
            for index in range(1, 2001):
                store.publish(json.dumps([announcement(index).to_json()]))
        assert await listener.has_heard(2001) == [announcement(index) for index in range(2001)]


async def test_other_databases_announcements_are_not_heard(backend: ResultBackend, redis: RedisServer) -> None:
    async with listening(backend) as listener:
        with redis.client(8) as client:
            client.publish(announce_channel(9), json.dumps([announcement(1).to_json()]))
            client.publish(announce_channel(8), json.dumps([announcement(2).to_json()]))
        assert await listener.has_heard(1) == [announcement(2)]


async def test_a_lost_server_is_found_again_with_an_empty_batch_first(redis_kind: RedisKind) -> None:
    with redis_server(kind=redis_kind) as server:
        async with opened(server.url(0)) as backend, listening(backend) as listener:
            server.stop()
            with pytest.raises(ResultBackendError):
                await backend.check()
            server.start()
            await listener.connected(2)
            with server.client() as client:
                client.publish(announce_channel(0), json.dumps([announcement(7).to_json()]))
            assert await listener.has_heard(1) == [announcement(7)]


async def test_a_half_open_connection_is_noticed(redis: RedisServer) -> None:
    """Nothing is said and nothing is refused: the proxy in between just stops passing bytes on."""
    async with (
        Proxy(redis.port) as proxy,
        opened(f"redis://{LOOPBACK}:{proxy.port}/0", silence_seconds=0.2) as backend,
        listening(backend) as listener,
    ):
        proxy.stalled.append(True)
        await until(proxy.has_new_connection)
        proxy.stalled.clear()
        await listener.connected(2)


async def test_silence_alone_is_no_reason_to_subscribe_again(redis: RedisServer) -> None:
    async with (
        Proxy(redis.port) as proxy,
        opened(f"redis://{LOOPBACK}:{proxy.port}/0", silence_seconds=0.1) as backend,
        listening(backend) as listener,
    ):
        await until(lambda: proxy.has_passed(b"PING", 5))
        assert listener.connections == 1
