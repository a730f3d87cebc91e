"""Only the leader writes; everybody may read."""

from __future__ import annotations

import pytest

from celery_operator.domain.errors import ClusterError
from celery_operator.services.fence import FencedCluster
from celery_operator.services.ports import EventRecord, ObjectKey
from fakes.cluster import FakeCluster

KEY = ObjectKey("default", "x")
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}, "spec": {}}


async def test_who_does_not_lead_reads_and_writes_nothing() -> None:
    inner = FakeCluster(CONFIG)
    cluster = FencedCluster(inner, lambda: False)
    assert await cluster.get("ConfigMap", KEY) is not None
    assert await cluster.pods("default", {}) == ()
    await cluster.record(EventRecord("ConfigMap", KEY, "u", "Normal", "R", "m"))
    for write in (
        cluster.apply(CONFIG),
        cluster.create(CONFIG),
        cluster.delete("ConfigMap", KEY),
        cluster.scale(KEY, 1, resource_version="1"),
        cluster.annotate_pod(KEY, {}),
        cluster.write_status("ConfigMap", KEY, {}, resource_version="1"),
    ):
        with pytest.raises(ClusterError, match="does not lead"):
            await write
    assert (inner.writes, inner.events) == ([], [])


async def test_the_leader_writes() -> None:
    inner = FakeCluster(CONFIG)
    cluster = FencedCluster(inner, lambda: True)
    await cluster.apply(CONFIG)
    await cluster.delete("ConfigMap", KEY)
    await cluster.record(EventRecord("ConfigMap", KEY, "u", "Normal", "R", "m"))
    assert inner.writes == ["apply ConfigMap", "delete ConfigMap"]
    assert len(inner.events) == 1
