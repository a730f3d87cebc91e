"""The port ``Cluster``: the same sentences for Kubernetes, for local mode and for the fake of the services' tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.kubernetes import connection as connection_module
from celery_operator.adapters.kubernetes.cluster import KubernetesCluster
from celery_operator.adapters.kubernetes.connection import ApiConnection, NotServed
from celery_operator.api import API_VERSION
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import ClusterError, Conflict, Gone
from celery_operator.local.cluster import LocalCluster
from celery_operator.services.ports import Cluster, EventRecord, Manifest, ObjectKey
from contract.api_server import ApiServer, cut, refuse
from contract.patience import until
from fakes.cluster import FakeCluster
from servers import LOOPBACK, free_port

NAMESPACE = "here"
WEB = ObjectKey(NAMESPACE, "web")
FLOW = ObjectKey(NAMESPACE, "flow")
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
FLOWS = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/celeryworkflows"


@pytest.fixture
async def kubernetes(api: ApiConnection) -> AsyncIterator[KubernetesCluster]:
    opened = KubernetesCluster(api, clock=SystemClock(), instance="operator-0")
    yield opened
    await opened.close()


@pytest.fixture(params=["kubernetes", "local", "fake"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    if request.param == "kubernetes":
        found: Cluster = request.getfixturevalue("kubernetes")
        return found
    return LocalCluster(SystemClock(), tmp_path) if request.param == "local" else FakeCluster()


def deployment(**spec: Any) -> Manifest:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "worker", "image": "x"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NAMESPACE, "labels": {"a": "b"}},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }


def workflow() -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "CeleryWorkflow",
        "metadata": {"name": "flow", "namespace": NAMESPACE},
        "spec": {"chain": [{"task": {"name": "x"}}]},
    }


def version(manifest: Manifest) -> str:
    return str(manifest["metadata"]["resourceVersion"])


# ------------------------------------------------------------------------------------------------ whoever implements it


async def test_what_is_not_there_is_none(cluster: Cluster) -> None:
    assert await cluster.get("Deployment", WEB) is None


async def test_apply_creates_and_updates_and_get_returns_what_is_there(cluster: Cluster) -> None:
    created = await cluster.apply(deployment(replicas=0))
    assert created["spec"]["replicas"] == 0
    changed = await cluster.apply(deployment(replicas=0, minReadySeconds=3))
    assert changed["spec"]["minReadySeconds"] == 3
    assert changed["metadata"]["uid"] == created["metadata"]["uid"]
    assert version(changed) != version(created)
    assert await cluster.get("Deployment", WEB) == changed


async def test_create_conflicts_with_what_exists(cluster: Cluster) -> None:
    created = await cluster.create(workflow())
    with pytest.raises(Conflict):
        await cluster.create(workflow())
    assert await cluster.get("CeleryWorkflow", FLOW) == created


async def test_deleting_twice_is_deleting_once(cluster: Cluster) -> None:
    await cluster.create(workflow())
    await cluster.delete("CeleryWorkflow", FLOW)
    assert await cluster.get("CeleryWorkflow", FLOW) is None
    await cluster.delete("CeleryWorkflow", FLOW)


async def test_scale_holds_only_for_the_version_that_was_seen(cluster: Cluster) -> None:
    first = await cluster.apply(deployment(replicas=0))
    scaled = await cluster.scale(WEB, 3, resource_version=version(first))
    assert (scaled["kind"], scaled["spec"]["replicas"], scaled["spec"]["template"]) == (
        "Deployment",
        3,
        first["spec"]["template"],
    )
    with pytest.raises(Conflict):
        await cluster.scale(WEB, 5, resource_version=version(first))
    assert (await cluster.get("Deployment", WEB) or {})["spec"]["replicas"] == 3
    with pytest.raises(Gone):
        await cluster.scale(ObjectKey(NAMESPACE, "none"), 1, resource_version=version(first))


async def test_writing_status_replaces_all_of_it_and_nothing_else(cluster: Cluster) -> None:
    created = await cluster.create(workflow())
    first = await cluster.write_status(
        "CeleryWorkflow", FLOW, {"phase": "Running", "steps": [{"name": "a"}]}, resource_version=version(created)
    )
    second = await cluster.write_status("CeleryWorkflow", FLOW, {"phase": "Succeeded"}, resource_version=version(first))
    assert second["status"] == {"phase": "Succeeded"}
    assert second["spec"] == created["spec"]
    with pytest.raises(Conflict):
        await cluster.write_status("CeleryWorkflow", FLOW, {}, resource_version=version(first))
    key = ObjectKey(NAMESPACE, "none")
    with pytest.raises(Gone):
        await cluster.write_status("CeleryWorkflow", key, {}, resource_version=version(first))
    assert await cluster.get("CeleryWorkflow", FLOW) == second


async def test_a_pod_that_is_gone_is_not_annotated(cluster: Cluster) -> None:
    await cluster.annotate_pod(ObjectKey(NAMESPACE, "none"), {"a": "b"})
    assert await cluster.pods(NAMESPACE, {"app": "web"}) == ()


# ------------------------------------------------------------------------------------------------ Kubernetes, in detail


async def test_requests_are_what_the_api_expects(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    created = await kubernetes.apply(deployment(replicas=0))
    await kubernetes.scale(WEB, 2, resource_version=version(created))
    flow = await kubernetes.create(workflow())
    await kubernetes.write_status("CeleryWorkflow", FLOW, {"phase": "Running"}, resource_version=version(flow))
    await kubernetes.delete("Deployment", WEB)
    manager = {"fieldManager": "celery-operator"}
    sent = [(each.method, each.path, each.query, each.content_type, each.body) for each in server.seen]
    merge, patch = "application/merge-patch+json", "application/json-patch+json"
    assert sent == [
        (
            "PATCH",
            f"{DEPLOYMENTS}/web",
            {**manager, "force": "true"},
            "application/apply-patch+yaml",
            deployment(replicas=0),
        ),
        (
            "PATCH",
            f"{DEPLOYMENTS}/web",
            manager,
            merge,
            {"metadata": {"resourceVersion": version(created)}, "spec": {"replicas": 2}},
        ),
        ("POST", FLOWS, manager, "application/json", workflow()),
        (
            "PATCH",
            f"{FLOWS}/flow/status",
            manager,
            patch,
            [
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version(flow)},
                {"op": "add", "path": "/status", "value": {"phase": "Running"}},
            ],
        ),
        ("DELETE", f"{DEPLOYMENTS}/web", {}, "application/json", {"propagationPolicy": "Background"}),
    ]
    assert {each.authorization for each in server.seen} == {"Bearer token-1"}


async def test_pods_are_chosen_by_labels_and_sorted(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    for name, labels in (("c", {"x": "1", "y": "2"}), ("a", {"x": "1", "y": "2"}), ("b", {"x": "1"})):
        server.put(f"{PODS}/{name}", {"metadata": {"name": name, "labels": labels}})
    found = await kubernetes.pods(NAMESPACE, {"x": "1", "y": "2"})
    assert [pod["metadata"]["name"] for pod in found] == ["a", "c"]
    assert server.seen[-1].query == {"labelSelector": "x=1,y=2"}


async def test_annotations_are_set_and_removed(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    server.put(f"{PODS}/p", {"metadata": {"name": "p", "annotations": {"old": "1", "keep": "2"}}})
    await kubernetes.annotate_pod(ObjectKey(NAMESPACE, "p"), {"old": None, "new": "3"})
    assert server.objects[f"{PODS}/p"]["metadata"]["annotations"] == {"keep": "2", "new": "3"}


async def test_names_cannot_leave_their_place_in_the_path(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    assert await kubernetes.get("Secret", ObjectKey("a/b", "../c")) is None
    assert server.seen[-1].raw_path == "/api/v1/namespaces/a%2Fb/secrets/..%2Fc"


async def test_a_kind_that_the_operator_does_not_touch_is_a_mistake(kubernetes: KubernetesCluster) -> None:
    with pytest.raises(ValueError, match="Ingress is not a kind"):
        await kubernetes.get("Ingress", WEB)


# --------------------------------------------------------------------------------------------------------------- events


def event(message: str = "3 tasks wait", reason: str = "ScaledOut") -> EventRecord:
    return EventRecord("CeleryWorkflow", FLOW, "uid-1", "Normal", reason, message)


async def test_repeated_events_are_one_with_a_count(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    def written() -> list[Manifest]:
        return [each for path, each in server.objects.items() if path.startswith(EVENTS)]

    async def counts(expected: dict[str, int]) -> bool:
        return {each["reason"]: each["count"] for each in written()} == expected

    for _ in range(3):
        await kubernetes.record(event())
    await until(lambda: counts({"ScaledOut": 3}))
    await kubernetes.record(event())
    await kubernetes.record(event(reason="ScaledIn"))
    await until(lambda: counts({"ScaledOut": 4, "ScaledIn": 1}))
    one = next(each for each in written() if each["reason"] == "ScaledOut")
    assert one["involvedObject"] == {
        "apiVersion": API_VERSION,
        "kind": "CeleryWorkflow",
        "namespace": NAMESPACE,
        "name": "flow",
        "uid": "uid-1",
    }
    assert (one["type"], one["message"], one["source"]) == ("Normal", "3 tasks wait", {"component": "celery-operator"})
    assert (one["reportingComponent"], one["reportingInstance"]) == ("celery-operator", "operator-0")
    assert one["firstTimestamp"] <= one["lastTimestamp"]


async def test_an_event_that_expired_is_written_anew(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    async def there() -> list[str]:
        return [path for path in server.objects if path.startswith(EVENTS)]

    await kubernetes.record(event())
    (path,) = await until(there)
    del server.objects[path]
    await kubernetes.record(event())
    (again,) = await until(there)
    assert (again != path, server.objects[again]["count"]) == (True, 1)


async def test_events_never_raise_never_wait_and_hold_no_credentials(
    kubernetes: KubernetesCluster, server: ApiServer
) -> None:
    server.faults = [refuse(403)]
    await kubernetes.record(event("refused"))
    await kubernetes.record(event("cannot reach redis://me:secret@there " + "x" * 2000))
    await kubernetes.close()
    (written,) = [each for path, each in server.objects.items() if path.startswith(EVENTS)]
    assert written["message"].startswith("cannot reach redis://***@there ")
    assert len(written["message"]) == 1024


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", [refuse(500), refuse(503), refuse(429, headers={"Retry-After": "0"}), cut])
async def test_passing_trouble_is_outlasted(kubernetes: KubernetesCluster, server: ApiServer, fault: Any) -> None:
    server.faults = [fault, fault]
    assert (await kubernetes.apply(deployment(replicas=1)))["spec"]["replicas"] == 1
    assert len(server.seen) == 3


async def test_creating_is_not_tried_again_if_it_may_have_happened(
    kubernetes: KubernetesCluster, server: ApiServer
) -> None:
    server.faults = [cut]
    with pytest.raises(ClusterError, match="broke in POST"):
        await kubernetes.create(workflow())
    assert len(server.seen) == 1
    server.faults = [refuse(429)]
    await kubernetes.create(workflow())


async def test_all_tries_of_one_call_together_are_bounded(
    kubernetes: KubernetesCluster, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No try begins when it could not end within the bound, pauses that the server asks for included."""
    monkeypatch.setattr(connection_module, "LAST_TRY_SECONDS", 0.5)
    server.faults = [refuse(429, "slow down", headers={"Retry-After": "1"})] * 9
    with pytest.raises(ClusterError, match="slow down"):
        await kubernetes.get("Deployment", WEB)
    assert len(server.seen) == 1


async def test_lasting_trouble_ends_in_an_error_with_the_servers_words(
    kubernetes: KubernetesCluster, server: ApiServer
) -> None:
    server.faults = [refuse(503, "etcd is tired")] * 9
    with pytest.raises(ClusterError, match="etcd is tired") as caught:
        await kubernetes.get("Deployment", WEB)
    assert type(caught.value) is ClusterError
    assert len(server.seen) == connection_module.TRIES


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        (refuse(403, "pods is forbidden"), (ClusterError, Reason.AUTHENTICATION_FAILED), "pods is forbidden"),
        (refuse(422, "spec.x: Invalid value"), (ClusterError, Reason.CONNECTION_FAILED), "spec.x: Invalid value"),
        (
            refuse(404, "could not find the requested resource"),
            (NotServed, Reason.CONNECTION_FAILED),
            "CRDs installed",
        ),
        (refuse(409, "modified"), (Conflict, Reason.CONNECTION_FAILED), "modified"),
        (refuse(404, "namespaces x not found", name="x"), (Gone, Reason.CONNECTION_FAILED), "namespaces x not found"),
    ],
)
async def test_refusals_are_told_apart(
    kubernetes: KubernetesCluster, server: ApiServer, fault: Any, expected: Any, words: str
) -> None:
    server.faults = [fault]
    with pytest.raises(ClusterError, match=words) as caught:
        await kubernetes.apply(deployment())
    assert (type(caught.value), caught.value.reason) == expected
    assert len(server.seen) == 1


async def test_a_rotated_token_is_picked_up(kubernetes: KubernetesCluster, server: ApiServer, tmp_path: Path) -> None:
    await kubernetes.apply(deployment())
    server.token = "token-2"
    server.kubeconfig(tmp_path)
    assert await kubernetes.get("Deployment", WEB) is not None
    assert [each.authorization for each in server.seen] == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


async def test_a_token_that_stays_wrong_is_an_error(kubernetes: KubernetesCluster, server: ApiServer) -> None:
    server.token = "another"
    with pytest.raises(ClusterError) as caught:
        await kubernetes.get("Deployment", WEB)
    assert caught.value.reason == Reason.AUTHENTICATION_FAILED
    assert len(server.seen) == 2


async def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    nowhere = ApiServer(url=f"http://{LOOPBACK}:{free_port()}")
    api = await ApiConnection.open(nowhere.kubeconfig(tmp_path))
    with pytest.raises(ClusterError, match="cannot be reached"):
        await KubernetesCluster(api, clock=SystemClock(), instance="x").get("Deployment", WEB)
    await api.close()


@pytest.mark.parametrize("content", [None, "", "apiVersion: v1", "{", json.dumps({"current-context": "x"})])
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "mine"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterError, match=r"cannot log in to Kubernetes with .*mine"):
        await ApiConnection.open(path)


async def test_the_login_may_come_from_the_environment(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    api = await ApiConnection.open()
    assert await KubernetesCluster(api, clock=SystemClock(), instance="x").get("Deployment", WEB) is None
    await api.close()
