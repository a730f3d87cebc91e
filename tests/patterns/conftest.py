"""A Redis for each module, one RabbitMQ for all: each test or module has a queue and a worker of its own on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from patterns.stage import BROKER_DB
from scripts_run import runs_what_it_models, scripts_seen
from servers import RabbitKind, RabbitServer, RedisKind, RedisServer, redis_server

__all__ = ["runs_what_it_models", "scripts_seen"]  # fixtures of all tests here


@pytest.fixture(scope="module")
def redis(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server(kind=redis_kind) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit(rabbit_of: Callable[[RabbitKind], RabbitServer], rabbit_kind: RabbitKind) -> RabbitServer:
    """One RabbitMQ for all: it takes seven seconds to start."""
    return rabbit_of(rabbit_kind)


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, redis: RedisServer) -> str:
    """The URL of a broker of each sort."""
    if request.param == "redis":
        return redis.url(BROKER_DB)
    rabbit: RabbitServer = request.getfixturevalue("rabbit")
    return rabbit.url()
