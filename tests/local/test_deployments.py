"""Deployments of local mode are kept by real processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.domain.errors import Conflict
from celery_operator.local.cluster import LocalCluster
from celery_operator.local.deployments import DELETION_COST, is_leaving, is_ready
from celery_operator.local.guard import children
from celery_operator.services.ports import Manifest, ObjectKey
from local.support import deployment, gone, until

KEY = ObjectKey("default", "w")


def pods(cluster: LocalCluster) -> tuple[Manifest, ...]:
    return cluster.store.list("Pod")


def names(manifests: Any) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests}


def ready(cluster: LocalCluster, count: int) -> bool:
    return sum(1 for pod in pods(cluster) if is_ready(pod) and not is_leaving(pod)) == count


def status(cluster: LocalCluster) -> dict[str, Any]:
    found = cluster.store.get("Deployment", KEY)
    assert found is not None
    return dict(found.get("status", {}))


def notes(directory: Path, what: str) -> dict[str, str]:
    """Return what stand-ins noted: pod name -> text."""
    return {file.name.rpartition(".")[0]: file.read_text() for file in directory.glob(f"*.{what}")}


def private_text(path: str) -> str:
    """Return what a file holds; fail if others may read it."""
    assert Path(path).stat().st_mode & 0o077 == 0
    return Path(path).read_text()


async def scale(cluster: LocalCluster, replicas: int) -> None:
    found = cluster.store.get("Deployment", KEY)
    assert found is not None
    await cluster.scale(KEY, replicas, resource_version=found["metadata"]["resourceVersion"])


async def test_each_replica_becomes_a_ready_pod_with_an_address_of_its_own(cluster: LocalCluster) -> None:
    await cluster.apply(deployment("w", 3))
    await until(lambda: status(cluster).get("readyReplicas") == 3)
    found = await cluster.pods("default", {"app": "w"})
    addresses = {pod["status"]["podIP"] for pod in found}
    assert len(addresses) == 3
    assert all(address.startswith("127.") for address in addresses)
    assert await cluster.pods("default", {"app": "other"}) == ()
    assert {
        name: status(cluster)[name]
        for name in ("observedGeneration", "replicas", "updatedReplicas", "unavailableReplicas")
    } == {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "unavailableReplicas": 0}


async def test_scaling_in_removes_the_pod_that_is_not_ready_and_then_the_cheapest(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    await cluster.apply(deployment("w", 3, f"note={tmp_path}"))
    await until(lambda: ready(cluster, 3))
    cheap = sorted(names(pods(cluster)))[1]
    await cluster.annotate_pod(ObjectKey("default", cheap), {DELETION_COST: "-1000"})
    await scale(cluster, 2)
    await until(lambda: cheap not in names(pods(cluster)))
    assert set(notes(tmp_path, "terminated")) == {cheap}
    assert ready(cluster, 2)
    await scale(cluster, 0)
    await until(lambda: not pods(cluster))
    assert len(notes(tmp_path, "terminated")) == 3


async def test_scaling_with_an_old_resource_version_is_a_conflict(cluster: LocalCluster) -> None:
    applied = await cluster.apply(deployment("w", 0))
    await scale(cluster, 1)
    with pytest.raises(Conflict):
        await cluster.scale(KEY, 2, resource_version=applied["metadata"]["resourceVersion"])


async def test_a_pod_gets_secrets_fields_and_volumes_in_its_environment(cluster: LocalCluster, tmp_path: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"url": "u", "token": "t"}}
    await cluster.apply(secret)
    env = [
        {"name": "URL", "valueFrom": {"secretKeyRef": {"name": "s", "key": "url"}}},
        {"name": "FULL", "value": "$(URL)/$(NONE)/$$(URL)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "FILE", "value": "/var/run/x/token"},
    ]
    container = {"env": env, "volumeMounts": [{"name": "x", "mountPath": "/var/run/x"}]}
    volumes = [{"name": "x", "secret": {"secretName": "s"}}]
    await cluster.apply(deployment("w", 1, f"note={tmp_path}", container=container, volumes=volumes))
    await until(lambda: ready(cluster, 1))
    ((pod, text),) = notes(tmp_path, "started").items()
    seen = json.loads(text)
    assert {name: seen[name] for name in ("URL", "FULL", "POD", "HOSTNAME")} == {
        "URL": "u",
        "FULL": "u/$(NONE)/$(URL)",
        "POD": pod,
        "HOSTNAME": pod,
    }
    assert private_text(seen["FILE"]) == "t"


async def test_a_missing_secret_holds_the_pod_until_it_appears(cluster: LocalCluster) -> None:
    env = [{"name": "URL", "valueFrom": {"secretKeyRef": {"name": "late", "key": "url"}}}]
    await cluster.apply(deployment("w", 1, container={"env": env}))

    def waiting() -> Any:
        states = [pod["status"].get("containerStatuses", [{}])[0].get("state", {}) for pod in pods(cluster)]
        return next((state["waiting"] for state in states if "waiting" in state), None)

    assert await until(waiting) == {"reason": "CreateContainerConfigError", "message": 'secret "late" not found'}
    await cluster.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"url": "u"}}
    )
    await until(lambda: ready(cluster, 1))


async def test_a_worker_that_ends_is_started_again_after_a_pause(cluster: LocalCluster, tmp_path: Path) -> None:
    await cluster.apply(deployment("w", 1, "crash", f"note={tmp_path}"))

    def restarted() -> Any:
        found = [pod["status"].get("containerStatuses", [{}])[0] for pod in pods(cluster)]
        return next((each for each in found if each.get("restartCount", 0) >= 2), None)

    again = await until(restarted)
    assert again["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert again["lastState"]["terminated"]["exitCode"] == 3
    (text,) = notes(tmp_path, "started").values()
    assert len(text.splitlines()) >= 2


async def test_pre_stop_comes_before_sigterm_and_sigkill_after_the_grace_period(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    hook = {"preStop": {"httpGet": {"path": "/drain", "port": "agent"}}}
    manifest = deployment("w", 1, "stubborn", f"note={tmp_path}", container={"lifecycle": hook})
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    await cluster.apply(manifest)
    await until(lambda: ready(cluster, 1))
    await scale(cluster, 0)
    await until(lambda: notes(tmp_path, "terminated"))
    assert len(notes(tmp_path, "drained")) == 1
    assert len(pods(cluster)) == 1  # it does not heed SIGTERM
    await until(lambda: not pods(cluster), within=5)


async def test_an_exec_hook_runs_with_the_containers_environment(cluster: LocalCluster, tmp_path: Path) -> None:
    command = ["sh", "-c", f'echo "$WORD" > {tmp_path}/hook']
    container = {"env": [{"name": "WORD", "value": "hello"}], "lifecycle": {"preStop": {"exec": {"command": command}}}}
    await cluster.apply(deployment("w", 1, container=container))
    await until(lambda: ready(cluster, 1))
    await scale(cluster, 0)
    await until(lambda: not pods(cluster))
    assert (tmp_path / "hook").read_text() == "hello\n"


async def test_a_new_template_replaces_pods_without_fewer_being_ready(cluster: LocalCluster) -> None:
    await cluster.apply(deployment("w", 2))
    await until(lambda: ready(cluster, 2))
    before = names(pods(cluster))
    fewest = 2

    def watch(kind: str, *_: object) -> None:
        nonlocal fewest
        if kind == "Pod":
            fewest = min(fewest, sum(1 for pod in pods(cluster) if is_ready(pod) and not is_leaving(pod)))

    cluster.watch(watch)
    await cluster.apply(deployment("w", 2, "another-argument"))
    await until(lambda: not before & names(pods(cluster)) and ready(cluster, 2))
    assert fewest == 2
    assert status(cluster)["updatedReplicas"] == 2


async def test_deleting_the_owner_ends_its_pods(cluster: LocalCluster) -> None:
    await cluster.apply(deployment("w", 1))
    await until(lambda: ready(cluster, 1))
    await cluster.delete("Deployment", KEY)
    await until(lambda: not pods(cluster))
    assert cluster.store.list("ReplicaSet") == ()


async def test_closing_kills_what_does_not_end_and_what_workers_have_started(tmp_path: Path) -> None:
    async with LocalCluster(SystemClock(), tmp_path) as cluster:
        await cluster.apply(deployment("w", 2, "stubborn", "parent", f"note={tmp_path}"))
        await until(lambda: ready(cluster, 2))
        children = [int(text) for text in notes(tmp_path, "child").values()]
        assert [pid for pid in children if gone(pid)] == []
        await cluster.close(0.5)
    assert [pid for pid in children if not gone(pid)] == []
    assert not (tmp_path / "pods").exists() or not list((tmp_path / "pods").iterdir())


async def test_closing_waits_for_a_hook_that_it_has_cut_short(tmp_path: Path) -> None:
    """A child that nobody has collected when the event loop closes is asyncio's noise on the user's terminal."""
    command = [sys.executable, "-S", "-c", f"open({str(tmp_path / 'begun')!r}, 'w'); import time; time.sleep(600)"]
    before = set(children(os.getpid()))
    async with LocalCluster(SystemClock(), tmp_path) as local:
        await local.apply(deployment("w", 1, container={"lifecycle": {"preStop": {"exec": {"command": command}}}}))
        await until(lambda: ready(local, 1))
        found = local.store.get("Deployment", KEY)
        assert found is not None
        await local.scale(KEY, 0, resource_version=found["metadata"]["resourceVersion"])
        await until((tmp_path / "begun").exists)
        await local.close(0.5)
        assert set(children(os.getpid())) - before == set()


async def test_output_of_a_worker_goes_to_a_file_of_its_own(cluster: LocalCluster) -> None:
    await cluster.apply(deployment("w", 1))
    await until(lambda: ready(cluster, 1))
    (pod,) = names(pods(cluster))
    assert cluster.node.log_of(pod).read_text() == "started\n"
