"""One Redis and one RabbitMQ for all; each module has a queue and a worker of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import RabbitServer, RedisServer, rabbitmq_server, redis_server


@pytest.fixture(scope="package")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="package")
def rabbit() -> Iterator[RabbitServer]:
    with rabbitmq_server() as server:
        yield server
