"""A Redis for each module of the agent's tests, and stages on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.stage import Stage
from scripts_run import runs_what_it_models, scripts_seen
from servers import RedisKind, RedisServer, redis_server

__all__ = ["runs_what_it_models", "scripts_seen"]  # fixtures of all tests here


@pytest.fixture(scope="module")
def redis(redis_kind: RedisKind) -> Iterator[RedisServer]:
    with redis_server(kind=redis_kind) as server:
        yield server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stage(redis: RedisServer, stack: ExitStack) -> Stage:
    """Broker, results and ledger on the module's Redis, with a queue of its own."""
    return Stage(broker=redis, results=redis, stack=stack)


@pytest.fixture
def once() -> Counter[str]:
    """What the ledger says of a task that ran once."""
    return Counter(start=1, finish=1)
