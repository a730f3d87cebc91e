"""One Redis and one RabbitMQ for all; each module has a queue and a worker of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from servers import RabbitKind, RabbitServer, RedisKind, RedisServer, redis_server


@pytest.fixture(scope="package")
def redis(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server(kind=redis_kind) as server:
        yield server


@pytest.fixture(scope="package")
def rabbit(rabbit_of: Callable[[RabbitKind], RabbitServer], rabbit_kind: RabbitKind) -> RabbitServer:
    return rabbit_of(rabbit_kind)
