"""Helm installs, upgrades and removes the operator; running workers, tasks in flight and resources never notice."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from servers import eventually
from support.api import Manifest
from support.cluster import Cluster
from support.ledger import assert_each_once
from support.load import Call, send
from support.manifests import fan_out_and_total
from support.playground import Playground, await_gone, condition, delete_namespace, playground, worker_selector
from support.release import BUNDLED_REDIS, Release

pytestmark = pytest.mark.wounds_operator

SECOND = "second"
SECOND_NAMESPACE = "celery-operator-second"
ITEMS = 120


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Release]:
    """A release of another name in another namespace, not installed yet; gone afterwards."""
    release = Release(cluster, SECOND, SECOND_NAMESPACE)
    release.create_namespace()
    yield release
    release.uninstall()
    delete_namespace(cluster, SECOND_NAMESPACE)


def test_helm_test_passes(operator: Release) -> None:
    said = operator.cluster.helm("test", operator.name, "--namespace", operator.namespace, "--timeout=120s")
    assert "Phase:          Succeeded" in said
    left = operator.cluster.kubectl("get", "pods", "-n", operator.namespace, "-o", "name").split()
    assert len(left) == 2, f"the test left something behind: {left}"


def test_unknown_values_are_refused(operator: Release) -> None:
    ended = operator.cluster.try_helm(
        *("upgrade", operator.name, "helm/celery-operator", "--namespace", operator.namespace, "--dry-run"),
        *("--set", "replica=3"),
    )
    assert ended.code != 0
    assert "replica" in ended.said


def test_an_upgrade_leaves_workers_tasks_and_runs_alone(ground: Playground, operator: Release) -> None:
    uids, ids = _begin(ground)
    before = _crd_uids(ground.cluster)
    operator.upgrade({"log": {"level": "debug", "format": "json"}})
    operator.wait_ready()
    levels = [_environment(pod)["CELERY_OPERATOR_LOG_LEVEL"] for pod in operator.pods()]
    assert levels == ["debug", "debug"]
    assert _crd_uids(ground.cluster) == before
    _assert_undisturbed(ground, uids, ids)


def test_uninstalling_and_reinstalling_elsewhere_goes_on_where_it_was(
    ground: Playground, operator: Release, second: Release
) -> None:
    uids, ids = _begin(ground)
    before = _crd_uids(ground.cluster)
    operator.uninstall()
    assert _crd_uids(ground.cluster) == before
    kinds = ("celapp/app", "celpool/pool", "celwf/fan-out")
    assert len(ground.cluster.kubectl("get", *kinds, "-n", ground.name, "-o", "name").split()) == 3
    assert {pod["metadata"]["uid"] for pod in ground.worker_pods()} == uids
    # Workers need no operator: what is in a queue is done.
    alone = send(ground, [Call("alone", 0.1)])
    eventually(
        lambda: "alone" in _finished(ground), within=30, every=0.3, what="a task that is done without an operator"
    )
    _assert_a_namespace_is_deleted_without_an_operator(ground.cluster)
    second.upgrade()
    second.wait_ready()
    assert _crd_uids(ground.cluster) == before
    owners = {crd["metadata"]["annotations"]["meta.helm.sh/release-name"] for crd in _crds(ground.cluster)}
    assert owners == {SECOND}
    _assert_undisturbed(ground, uids, (*ids, *alone))
    second.uninstall()
    assert _crd_uids(ground.cluster) == before
    operator.mend()
    ground.create_workflow(
        "afterwards", chain=[{"task": {"name": "examples.ledger.record", "args": [{"value": "again"}]}}]
    )
    assert condition(ground.wait_ended("afterwards", within=30), "Succeeded")["status"] == "True"


def test_a_namespaced_operator_serves_its_namespaces_only_and_its_notes_lead_to_a_result(
    ground: Playground, cluster: Cluster, operator: Release, second: Release
) -> None:
    operator.uninstall()
    notes = second.upgrade({"watchNamespaces": [ground.name], **BUNDLED_REDIS})
    second.wait_ready()
    account = f"--as=system:serviceaccount:{second.namespace}:{second.full_name}"
    for namespace, answer in ((ground.name, "yes"), ("default", "no")):
        asked = cluster.attempt(
            "auth", "can-i", "list", "celeryworkflows.celery-operator.dev", "-n", namespace, account
        )
        assert asked.output.strip() == answer
    with playground(cluster, "not-watched") as other:
        for _, manifest in _notes_manifest(notes):
            cluster.kubectl("apply", "-n", other.name, "-f", "-", stdin=manifest)
        commands = [command for command, _ in _notes_manifest(notes)]
        assert commands == [f"kubectl apply --namespace {ground.name} -f -"]
        cluster.kubectl(*commands[0].split()[1:], stdin=_notes_manifest(notes)[0][1])
        ended = ground.wait_ended("add", within=90)
        assert condition(ended, "Succeeded")["status"] == "True"
        assert ground.outputs("add") == {"sum": 8}
        for kind, name in (("CeleryApp", "first"), ("CeleryWorkerPool", "first"), ("CeleryWorkflow", "add")):
            assert "status" not in other.get(kind, name)
        assert other.pods("") == []
    assert "kubectl get celwf/add" in notes


# ---------------------------------------------------------------------------------------------------- support


def _begin(ground: Playground) -> tuple[set[str], tuple[str, ...]]:
    """Start two workers, a fan-out and a task of twenty seconds; return the pods' uids and the long task's id."""
    ground.create_pool(replicas=2, worker={"concurrency": 3})
    pods = ground.wait_for_pods(2, worker_selector("pool"))
    ids = send(ground, [Call("long", 20.0)])
    ground.create_workflow("fan-out", **fan_out_and_total(items=ITEMS, seconds=0.5, parallelism=4))
    eventually(lambda: len(ground.ledger.finished()) >= 5, within=30, every=0.2, what="some progress")
    return {ground.get("Pod", name)["metadata"]["uid"] for name in pods}, ids


def _assert_undisturbed(ground: Playground, uids: set[str], ids: tuple[str, ...]) -> None:
    """Assert that the run ends well, everything ran once, and the workers are the ones that were there before."""
    ended = ground.wait_ended("fan-out", within=120)
    assert condition(ended, "Succeeded")["status"] == "True"
    assert ground.outputs("fan-out") == {"total": sum(range(ITEMS))}
    eventually(lambda: "long" in _finished(ground), within=30, every=0.3, what="the end of the long task")
    assert_each_once(ground.ledger.entries(), {*ids, *ground.task_ids("fan-out", "numbers", ITEMS)})
    pods = ground.worker_pods()
    assert {pod["metadata"]["uid"] for pod in pods} == uids
    restarts = [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]]
    assert restarts == [0, 0]


def _assert_a_namespace_is_deleted_without_an_operator(cluster: Cluster) -> None:
    with playground(cluster, "orphaned") as orphaned:
        orphaned.create_app()
        orphaned.create_pool(replicas=1)
        orphaned.create_workflow("work", chain=[{"task": {"name": "examples.add"}}])
        finalizers = [
            item["metadata"].get("finalizers", []) for item in cluster.get_json("celery", "-n", orphaned.name)["items"]
        ]
        assert finalizers == [[], [], []]
        delete_namespace(cluster, orphaned.name, wait=False)
        await_gone(cluster, orphaned.name)


def _finished(ground: Playground) -> set[str]:
    return {entry.key for entry in ground.ledger.finished()}


def _crds(cluster: Cluster) -> list[Manifest]:
    items: list[Manifest] = cluster.get_json("crd")["items"]
    return [crd for crd in items if crd["spec"]["group"] == "celery-operator.dev"]


def _crd_uids(cluster: Cluster) -> dict[str, str]:
    found = {crd["metadata"]["name"]: crd["metadata"]["uid"] for crd in _crds(cluster)}
    assert len(found) == 3
    return found


def _environment(pod: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}


def _notes_manifest(notes: str) -> list[tuple[str, str]]:
    """Return the commands of the notes that read a manifest, each with what it reads."""
    found = re.findall(r"^ *(kubectl [^\n]*-f -) <<'EOF'\n(.*?)^ *EOF$", notes, re.DOTALL | re.MULTILINE)
    return [(command, textwrap.dedent(manifest)) for command, manifest in found]
