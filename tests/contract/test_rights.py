"""The operator works with Redis users who have exactly the rights that ``celery-patterns doctor`` names for it.

The proof is Redis's own list of what it has denied (ACL LOG).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import pytest
from celery import Celery

from celery_operator.adapters.redis_broker import RedisBroker
from celery_operator.adapters.result_backend import RedisResultBackend
from celery_patterns.cli import needed_rights
from celery_patterns.cli.needed_rights import OPERATOR, Needs
from contract.publishing import StoppedClock, message
from patterns.resilience.acl import add_user, denied, url_of
from servers import RedisKind, RedisServer, redis_server

BROKER_DB, RESULT_DB = 2, 3


@pytest.fixture
def server(redis_kind: RedisKind) -> Iterator[RedisServer]:
    """A Redis whose users ``broker`` and ``results`` may do what the operator needs, and nothing else."""
    with redis_server(kind=redis_kind) as server:
        app = Celery("shop", set_as_current=False, broker=server.url(BROKER_DB), backend=server.url(RESULT_DB))
        with app:
            add_user(server, "broker", of_operator(needed_rights.of_broker(app, BROKER_DB)))
            add_user(server, "results", of_operator(needed_rights.of_results(app)))
        yield server


def of_operator(needed: Iterable[Needs]) -> list[Needs]:
    found = [needs for needs in needed if needs.use == OPERATOR]
    assert len(found) == 1
    return found


@pytest.mark.every_redis
async def test_broker_and_result_backend_need_no_more_than_is_named(server: RedisServer) -> None:
    broker = RedisBroker(url_of(server, "broker", BROKER_DB), clock=StoppedClock())
    backend = RedisResultBackend(url_of(server, "results", RESULT_DB))
    sent = [message("celery", index) for index in range(3)]
    ids = [each.identity.task_id for each in sent]
    try:
        assert await broker.waiting(()) == {}
        await broker.publish(sent)
        assert await broker.waiting(("celery",)) == {"celery": 3}
        await broker.revoke(ids)
        await backend.check()
        async with asyncio.timeout(10):
            assert await anext(aiter(backend.announcements())) == ()
        assert await backend.abandon(ids) == frozenset(ids)
        assert await backend.claims(ids) != {}
        assert await backend.read(ids) == {}
    finally:
        await broker.close()
        await backend.close()
    assert denied(server) == set()
