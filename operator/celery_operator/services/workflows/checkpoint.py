"""The owned ConfigMap that holds a run's state beyond what status shows: the compiled graph and every item's state."""

from __future__ import annotations

import json
from datetime import timedelta

from celery_operator.api import API_VERSION
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.state import RunState, from_checkpoint, to_checkpoint
from celery_operator.services.ports import Cluster, Manifest, ObjectKey

FIRST_CHECKPOINT_AFTER = timedelta(seconds=2)
"""A shorter run is cheaper to rebuild from its results than to write down."""

CHECKPOINT_INTERVAL = timedelta(seconds=10)
"""Between two of them: what happened since is found again in the result backend."""


def checkpoint_key(key: ObjectKey) -> ObjectKey:
    """Return where the checkpoint of a workflow is kept."""
    return ObjectKey(key.namespace, f"{key.name}-state")


def checkpoint_manifest(key: ObjectKey, uid: str, graph: Graph, state: RunState) -> Manifest:
    """Return the ConfigMap; Kubernetes deletes it with the workflow."""
    name = checkpoint_key(key).name
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": {"app.kubernetes.io/managed-by": "celery-operator"},
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": "CeleryWorkflow", "name": key.name, "uid": uid, "controller": True}
            ],
        },
        # A ConfigMap holds texts only: one that held the graph as an object would be refused as a whole.
        "data": {"graph": json.dumps(graph.to_json(), separators=(",", ":")), **to_checkpoint(state)},
    }


async def read_checkpoint(cluster: Cluster, key: ObjectKey, uid: str) -> tuple[Graph, RunState] | None:
    """Return the graph and state that the run had; None if there is no usable checkpoint of this very workflow.

    A checkpoint that cannot be read is no harm: the run is rebuilt from its results.
    """
    manifest = await cluster.get("ConfigMap", checkpoint_key(key))
    if manifest is None:
        return None
    owners = manifest["metadata"].get("ownerReferences") or []
    if not any(owner.get("uid") == uid for owner in owners):
        return None
    data = dict(manifest.get("data") or {})
    try:
        graph = Graph.from_json(json.loads(data.pop("graph")))
        return graph, from_checkpoint(graph, data)
    except (KeyError, ValueError, TypeError):
        return None
