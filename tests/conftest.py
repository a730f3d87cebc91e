"""Which kinds of Redis and of RabbitMQ the tests run on.

A test, or a module by its ``pytestmark``, that is marked ``every_redis`` runs once on each kind; all others run on the
first alone, and so does a test marked ``one_redis`` in such a module. Fixtures that start a server take the fixture
``redis_kind`` for its kind. ``every_rabbit`` and ``rabbit_kind`` are the same for RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache

import pytest

from servers import (
    RabbitKind,
    RabbitServer,
    RedisKind,
    RedisServer,
    every_kind,
    every_rabbit,
    rabbitmq_server,
    redis_server,
)
from servers_kinds import ENV_KIND, KINDS, RABBIT_KINDS, find_program, version


def pytest_report_header() -> list[str]:
    """Say which servers the tests run on, and on which they do not."""
    runs = [f"{kind.name} ({_version(kind)})" for kind in every_kind()] + [kind.name for kind in every_rabbit()]
    left_out = [kind.name for kind in (*KINDS, *RABBIT_KINDS) if kind not in (*every_kind(), *every_rabbit())]
    lines = [f"servers: {', '.join(runs)}"]
    if left_out:
        lines.append(f"NOT on {', '.join(left_out)}: {ENV_KIND} is set, or this machine has none (see make system)")
    return lines


def _version(kind: RedisKind) -> str:
    program = find_program(kind)
    said = version(program) if program is not None else None
    return said[1] if said is not None else "missing: call make system"


LONGEST_FILES = frozenset({"test_run.py", "test_lost_retries.py", "test_lease_kills.py", "test_poison.py"})
"""Begun first: a file stays with one process, and the others would wait for a long one that begins last."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first; all else keeps its order."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``every_redis`` or ``every_rabbit`` on each kind."""
    marked = metafunc.definition.get_closest_marker
    every_redis = bool(marked("every_redis")) and not marked("one_redis")
    _parametrize(metafunc, "redis_kind", every_kind(), every=every_redis)
    _parametrize(metafunc, "rabbit_kind", every_rabbit(), every=bool(marked("every_rabbit")))


def _parametrize(
    metafunc: pytest.Metafunc, fixture: str, kinds: Sequence[RedisKind | RabbitKind], *, every: bool
) -> None:
    if fixture not in metafunc.fixturenames:
        return
    if every:
        metafunc.parametrize(fixture, kinds, indirect=True, ids=lambda kind: kind.name, scope="session")
    else:
        # A parameter here too, so that these tests share the servers of the others on the first kind.
        metafunc.parametrize(fixture, [pytest.param(kinds[0], id=pytest.HIDDEN_PARAM)], indirect=True, scope="session")


@pytest.fixture(scope="session")
def redis_kind(request: pytest.FixtureRequest) -> RedisKind:
    """The kind of Redis that a test runs on."""
    kind: RedisKind = getattr(request, "param", every_kind()[0])
    return kind


@pytest.fixture(scope="session")
def rabbit_kind(request: pytest.FixtureRequest) -> RabbitKind:
    """The kind of RabbitMQ that a test runs on."""
    kind: RabbitKind = getattr(request, "param", every_rabbit()[0])
    return kind


@pytest.fixture(scope="session")
def redis_of() -> Iterator[Callable[[RedisKind], RedisServer]]:
    """Return what gives a Redis of a kind; each is started once, and stays up."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(redis_server(kind=kind)))


@pytest.fixture(scope="session")
def rabbit_of() -> Iterator[Callable[[RabbitKind], RabbitServer]]:
    """Return what gives a RabbitMQ of a kind; each is started once, and stays up."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(rabbitmq_server(kind)))
