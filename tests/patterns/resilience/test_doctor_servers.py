"""Doctor on a Redis without memory, and behind a Sentinel: the cause is told before what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_patterns.cli import doctor
from celery_patterns.cli.findings import Finding, Level
from servers import RedisKind, redis_server
from servers_sentinel import MASTER_NAME, Watched, sentinel_server

pytestmark = pytest.mark.every_redis


@pytest.fixture(scope="module")
def watched(redis_kind: RedisKind) -> Iterator[Watched]:
    with sentinel_server(redis_kind) as watched:
        yield watched


def told(broker: str, backend: str, **options: str) -> dict[str, Finding]:
    """Return the worst finding of each check, in the order in which they are told."""
    found: dict[str, Finding] = {}
    with Celery("shop", set_as_current=False, broker=broker, backend=backend) as app:
        app.conf.update(broker_transport_options=options, result_backend_transport_options=options)
        for finding in doctor.told(app):
            found.setdefault(finding.check, finding)
    return found


def test_server_without_memory_is_told_first(redis_kind: RedisKind) -> None:
    with redis_server("--maxmemory", "100kb", kind=redis_kind) as server:
        found = told(server.url(0), server.url(1))
    first = next(iter(found.values()))
    assert (first.check, first.level) == ("memory", Level.ERROR)
    assert first.message == "all of its 0.0977 MiB are used: every write is refused, publishing and results too"
    assert found["results"].message.endswith("/1 has no memory: no result can be stored")
    assert (found["results"].level, found["results"].advice) == (Level.ERROR, "see memory")
    assert found["broker"].level is Level.OK
    assert found["acl"].level is Level.OK


def test_server_behind_a_sentinel_is_looked_at_as_any_other(watched: Watched) -> None:
    found = told(watched.url(0), watched.url(1), master_name=MASTER_NAME)
    assert {name for name, finding in found.items() if finding.level is Level.ERROR} == set()
    assert (found["broker"].level, found["results"].level, found["acl"].level) == (Level.OK,) * 3
    assert "replica" not in found


def test_wrong_name_of_the_primary_is_told_with_where_it_is_set(watched: Watched) -> None:
    found = told(watched.url(0), watched.url(1), master_name="shopp")
    for check, option in (("broker", "broker_transport_options"), ("results", "result_backend_transport_options")):
        assert found[check].level is Level.ERROR
        assert "No master found for 'shopp'" in found[check].message
        assert found[check].advice.startswith(f"master_name in {option}")


def test_missing_name_of_the_primary_is_told(watched: Watched) -> None:
    found = told(watched.url(0), watched.url(1))
    assert found["broker"].level is Level.ERROR
    assert "master_name" in found["broker"].message
    assert found["results"].advice.startswith("master_name in result_backend_transport_options")
