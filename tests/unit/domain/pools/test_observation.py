"""Pods and Deployments are read as the API returns them."""

from __future__ import annotations

from typing import Any

import pytest

from celery_operator.domain.pools.observation import (
    ObservedDeployment,
    ObservedPod,
    observed_deployment,
    observed_pod,
)


def test_a_deployment_with_everything() -> None:
    manifest = {
        "metadata": {
            "name": "etl-worker",
            "resourceVersion": "9",
            "generation": 4,
            "annotations": {"celery-operator.dev/manifest-hash": "abc"},
            "ownerReferences": [{"uid": "other"}, {"uid": "6f4a", "controller": True}],
        },
        "spec": {"replicas": 3},
        "status": {
            "observedGeneration": 3,
            "replicas": 2,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"},
            ],
        },
    }
    assert observed_deployment(manifest) == ObservedDeployment(
        resource_version="9",
        replicas=3,
        existing=2,
        ready=1,
        updated=1,
        generation=4,
        observed_generation=3,
        manifest_hash="abc",
        owner="6f4a",
        refusal="exceeded quota",
        overdue="too slow",
    )
    assert not observed_deployment(manifest).seen


def test_a_new_deployment_has_not_been_seen_and_counts_nothing() -> None:
    new = observed_deployment({"metadata": {"resourceVersion": "1", "generation": 1}, "spec": {}})
    assert (new.replicas, new.existing, new.ready, new.seen) == (1, 0, 0, False)


def pod_manifest(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "etl-1",
            "labels": {"pod-template-hash": "abc"},
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1000"},
        },
        "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "agent", "containerPort": 1234}]}]},
        "status": status,
    }


def test_a_running_pod_has_the_address_of_its_agents_port() -> None:
    manifest = pod_manifest(
        phase="Running",
        podIP="10.0.0.7",
        conditions=[{"type": "Ready", "status": "True"}],
        containerStatuses=[{"name": "worker", "started": True}],
    )
    assert observed_pod(manifest) == ObservedPod(
        name="etl-1", address="10.0.0.7:1234", revision="abc", marked=True, started=True, ready=True
    )


def test_an_address_of_ip_version_six_is_bracketed() -> None:
    assert observed_pod(pod_manifest(podIP="fd00::7")).address == "[fd00::7]:1234"


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]},
            "0/1 nodes are available",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "worker", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
                ]
            },
            "container worker: ImagePullBackOff: no such image",
        ),
        ({"containerStatuses": [{"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, None),
        ({"containerStatuses": [{"name": "worker", "state": {"running": {}}}]}, None),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told_in_kubernetes_words(
    status: dict[str, Any], trouble: str | None
) -> None:
    pod = observed_pod(pod_manifest(**status))
    assert (pod.trouble, pod.pending, pod.starting) == (trouble, True, True)


def test_a_pod_that_ended_or_is_being_deleted_is_not_active() -> None:
    ended = observed_pod(pod_manifest(phase="Failed"))
    manifest = pod_manifest(phase="Running")
    manifest["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert (ended.active, observed_pod(manifest).active) == (False, False)
