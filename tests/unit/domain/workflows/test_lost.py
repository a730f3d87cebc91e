"""A lost task is waited for until its own message may have brought it back, unless its spec says otherwise."""

from __future__ import annotations

import pytest

from celery_operator.api.app import Recovery
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lookups import outstanding
from celery_operator.domain.workflows.lost import default_lost_after
from unit.domain.workflows.shorthand import begin, t
from unit.domain.workflows.simulation import UID, step


@pytest.mark.parametrize(
    ("broker", "lease", "expected"),
    [
        pytest.param("redis://r/0", 30, 60, id="the default"),
        pytest.param("redis://r/0", 10, 60, id="a short lease"),
        pytest.param("redis://r/0", 31, 61, id="a second more"),
        pytest.param("rediss://r/0", 3600, 3630, id="the longest"),
        pytest.param("amqp://r/", 3600, 60, id="RabbitMQ knows no lease"),
    ],
)
def test_it_follows_the_lease_of_messages(broker: str, lease: int, expected: int) -> None:
    app = ResolvedApp(ResolvedEndpoint(broker), None, "m:app", recovery=Recovery(lease_seconds=lease))
    assert default_lost_after(app) == expected


def test_what_the_spec_sets_counts_as_it_is() -> None:
    """Also where it is shorter than the lease: somebody would rather have another attempt than wait."""
    graph, state = begin(group=[t("a", lostAfterSeconds=7), t("b")])
    published = step(graph, state).state
    assert [task.lost_after for task in outstanding(graph, published, uid=UID, lost_after=630)] == [7, 630]
    assert Graph.from_json(graph.to_json()) == graph
