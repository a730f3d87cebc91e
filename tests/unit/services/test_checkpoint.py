"""A checkpoint is a ConfigMap that Kubernetes takes, and brings back what was put in."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from celery_operator.api.workflow import CeleryWorkflow
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.state import initial_state
from celery_operator.services.ports import ObjectKey
from celery_operator.services.workflows.checkpoint import checkpoint_manifest, read_checkpoint
from fakes.cluster import FakeCluster

KEY = ObjectKey("default", "sums")
UID = str(UUID(int=7))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _graph() -> Graph:
    add = {"name": "examples.add", "args": [{"value": 1}, {"value": "größer"}]}
    spec = {"appRef": {"name": "app"}, "chain": [{"task": add}], "outputs": []}
    return compile_workflow(CeleryWorkflow.model_validate({"spec": spec}).spec)


def test_a_config_map_holds_texts_only() -> None:
    graph = _graph()
    data = checkpoint_manifest(KEY, UID, graph, initial_state(graph, now=NOW))["data"]
    assert {name: type(value) for name, value in data.items()} == dict.fromkeys(data, str)
    assert "graph" in data


async def test_what_was_written_is_read_back() -> None:
    graph = _graph()
    state = initial_state(graph, now=NOW)
    cluster = FakeCluster(checkpoint_manifest(KEY, UID, graph, state))
    assert await read_checkpoint(cluster, KEY, UID) == (graph, state)


async def test_the_checkpoint_of_an_earlier_workflow_of_that_name_is_not_used() -> None:
    graph = _graph()
    cluster = FakeCluster(checkpoint_manifest(KEY, UID, graph, initial_state(graph, now=NOW)))
    assert await read_checkpoint(cluster, KEY, str(UUID(int=8))) is None


async def test_a_damaged_checkpoint_is_none() -> None:
    graph = _graph()
    manifest = checkpoint_manifest(KEY, UID, graph, initial_state(graph, now=NOW))
    manifest["data"]["graph"] = "{"
    assert await read_checkpoint(FakeCluster(manifest), KEY, UID) is None
