"""Pools that follow demand, and shrink without interrupting anybody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servers import eventually
from support.api import Manifest
from support.ledger import assert_each_once
from support.load import Call, send
from support.manifests import autoscaling
from support.playground import POD_READY_SECONDS, Playground, condition, ready, seconds_between, worker_selector

IDLE_TIMEOUT = 8
LONG_SECONDS = 60.0
SCALED_OUT_SECONDS = 60.0
SCALED_IN_SECONDS = 45.0


def test_a_pool_grows_from_zero_to_three_on_a_burst_and_back_to_zero(ground: Playground) -> None:
    ground.create_pool(autoscaling=autoscaling(most=3, idle_timeout=IDLE_TIMEOUT))
    ground.wait_condition("CeleryWorkerPool", "pool", "Ready", "True", within=15)
    assert ground.worker_pods() == []
    # Priorities are lists of their own in Redis; a pool that watches one list sees a third of this.
    calls = [Call(f"burst-{index}", 1.5, priority=(None, 3, 9)[index % 3]) for index in range(18)]
    ids = send(ground, calls)
    ground.wait_for_pods(3, worker_selector("pool"), within=SCALED_OUT_SECONDS)
    ground.wait("CeleryWorkerPool", "pool", lambda it: it["status"]["replicas"] == 3, within=10, what="3 replicas")
    eventually(lambda: len(ground.ledger.finished()) == len(ids), within=60, every=0.3, what="the end of the burst")
    empty = ground.wait(
        "Deployment",
        "pool-worker",
        lambda it: it["spec"]["replicas"] == 0,
        within=SCALED_IN_SECONDS,
        what="no replicas",
    )
    eventually(lambda: ground.worker_pods() == [], within=30, every=0.3, what="the end of all workers")
    assert empty["spec"]["replicas"] == 0
    assert_each_once(ground.ledger.entries(), ids)
    used = {entry.worker for entry in ground.ledger.started()}
    assert len(used) == 3, f"workers that had a share of the burst: {used}"
    for reason in ("ScaledOut", "ScaledIn"):
        ground.wait_event("CeleryWorkerPool", "pool", reason)


def test_the_last_worker_stays_until_the_idle_timeout(ground: Playground) -> None:
    ground.create_pool(autoscaling=autoscaling(most=1, idle_timeout=IDLE_TIMEOUT))
    send(ground, [Call("only", 0.1)])
    eventually(lambda: len(ground.ledger.finished()) == 1, within=SCALED_OUT_SECONDS, every=0.1, what="the task's end")
    finished = ground.ledger.finished()[0].at
    ground.wait("Deployment", "pool-worker", lambda it: it["spec"]["replicas"] == 0, within=SCALED_IN_SECONDS, what="0")
    scaled = ground.wait_event("CeleryWorkerPool", "pool", "ScaledIn")
    gone_at = seconds_between("1970-01-01T00:00:00+00:00", _time_of(scaled))
    # Events count whole seconds.
    assert gone_at - finished >= IDLE_TIMEOUT - 1


def test_a_busy_worker_outlives_the_idle_ones(ground: Playground) -> None:
    """One worker runs a task of a minute; going from three to one takes exactly the other two."""
    ground.create_pool(autoscaling=autoscaling(most=3, idle_timeout=3))
    (long_id,) = send(ground, [Call("long", LONG_SECONDS)])
    short_ids = send(ground, [Call(f"short-{index}", 4.0) for index in range(5)])
    three = ground.wait_for_pods(3, worker_selector("pool"), within=SCALED_OUT_SECONDS)
    eventually(
        lambda: [entry.key for entry in ground.ledger.started()].count("long") == 1,
        within=30,
        what="the long task's start",
    )
    busy = next(entry.worker for entry in ground.ledger.started() if entry.key == "long").partition("@")[2]
    assert busy in three
    eventually(lambda: len(ground.ledger.finished()) == len(short_ids), within=60, every=0.3, what="the short tasks")
    eventually(lambda: _names(ground) == {busy}, within=SCALED_IN_SECONDS, every=0.2, what=ground.describe_pods)
    assert [entry.key for entry in ground.ledger.finished()].count("long") == 0, "it ended before the others were gone"
    pod = ground.get("Pod", busy)
    assert ready(pod)
    assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
    done = len(short_ids) + 1
    eventually(
        lambda: len(ground.ledger.finished()) == done, within=LONG_SECONDS + 30, every=0.5, what="the long task's end"
    )
    assert_each_once(ground.ledger.entries(), (long_id, *short_ids))
    eventually(lambda: _names(ground) == set(), within=SCALED_IN_SECONDS, every=0.3, what=ground.describe_pods)


def test_shrinking_waits_for_workers_that_are_all_busy(ground: Playground) -> None:
    """`kubectl scale` to one while two workers run: nobody is interrupted, and the status says who holds it up."""
    ground.create_pool(replicas=2)
    ground.wait_for_pods(2, worker_selector("pool"))
    ids = send(ground, [Call("left", 15.0), Call("right", 15.0)])
    eventually(lambda: len({entry.worker for entry in ground.ledger.started()}) == 2, within=30, what="both at work")
    _scale(ground, 1)
    found = ground.wait_condition("CeleryWorkerPool", "pool", "ScalingLimited", "True", within=12)
    assert found["reason"] == "BusyWorkers"
    assert len(ground.worker_pods()) == 2
    ground.wait_for_pods(1, worker_selector("pool"), within=60)
    eventually(lambda: len(ground.ledger.finished()) == 2, within=30, what="both ends")
    assert_each_once(ground.ledger.entries(), ids)


def test_unknown_is_not_zero(ground: Playground) -> None:
    """With its broker gone a pool keeps its worker, however idle that is; when the broker is back, it shrinks."""
    ground.create_pool(autoscaling=autoscaling(most=1, idle_timeout=4))
    send(ground, [Call("only", 0.1)])
    ground.wait_for_pods(1, worker_selector("pool"), within=SCALED_OUT_SECONDS)
    ground.cluster.kubectl("delete", "pod", "redis", "-n", ground.name, "--force", "--grace-period=0")
    found = ground.wait_condition("CeleryWorkerPool", "pool", "ScalingActive", "False", within=15)
    assert found["reason"] == "DemandUnknown"
    ground.hold("Deployment", "pool-worker", lambda it: it["spec"]["replicas"] == 1, looks=24, every=0.5)
    assert "waiting" not in ground.get("CeleryWorkerPool", "pool")["status"]
    ground.start_redis()
    ground.wait("Deployment", "pool-worker", lambda it: it["spec"]["replicas"] == 0, within=SCALED_IN_SECONDS, what="0")


def test_kubectl_scale_works_where_replicas_are_set(ground: Playground) -> None:
    ground.create_pool(replicas=1)
    ground.wait_for_pods(1, worker_selector("pool"))
    _scale(ground, 2)
    ground.wait_for_pods(2, worker_selector("pool"))
    scale = _scale_subresource(ground)
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 2, "selector": worker_selector("pool")})
    ground.cluster.kubectl("wait", "--for=condition=Ready", "celpool/pool", "-n", ground.name, "--timeout=20s")
    _scale(ground, 0)
    eventually(lambda: ground.worker_pods() == [], within=SCALED_IN_SECONDS, every=0.3, what=ground.describe_pods)
    ground.wait("CeleryWorkerPool", "pool", lambda it: it["status"]["replicas"] == 0, within=15, what="no replicas")


def test_kubectl_scale_is_refused_where_autoscaling_is_set(ground: Playground) -> None:
    ground.create_pool(autoscaling=autoscaling(most=3, idle_timeout=5))
    ended = ground.cluster.attempt("scale", "celpool/pool", "--replicas=2", "-n", ground.name)
    assert ended.code != 0
    words = (
        "replicas cannot be set beside autoscaling: change autoscaling.minReplicas and maxReplicas, or remove "
        "autoscaling to fix the number of replicas"
    )
    assert words in ended.said
    assert "replicas" not in ground.get("CeleryWorkerPool", "pool")["spec"]


def test_what_somebody_changes_in_the_deployment_is_put_right(ground: Playground) -> None:
    ground.create_pool(replicas=1)
    ground.wait_for_pods(1, worker_selector("pool"))
    ground.patch("Deployment", "pool-worker", {"spec": {"replicas": 3}})
    ground.wait(
        "Deployment", "pool-worker", lambda it: it["spec"]["replicas"] == 1, within=30, what="one replica again"
    )
    ground.api.delete("Deployment", ground.name, "pool-worker")
    ground.wait_for_pods(1, worker_selector("pool"))


def test_workers_that_are_deleted_while_they_start_end_soon(ground: Playground) -> None:
    """Process 1 of a container does not heed SIGTERM before Celery does: it would start, work, and be killed at it."""
    ground.create_pool(replicas=3, drain={"timeoutSeconds": 3600})

    def all_start() -> bool:
        states = [status for pod in ground.worker_pods() for status in pod["status"].get("containerStatuses", ())]
        return len(states) == 3 and all("running" in status["state"] for status in states)

    eventually(all_start, within=POD_READY_SECONDS, every=0.05, what=ground.describe_pods)
    ground.delete("CeleryWorkerPool", "pool")
    eventually(lambda: ground.worker_pods() == [], within=SCALED_IN_SECONDS, every=0.3, what=ground.describe_pods)


def test_deleting_a_pool_removes_what_it_owns(ground: Playground) -> None:
    ground.create_pool(replicas=1)
    ground.wait_for_pods(1, worker_selector("pool"))
    ground.delete("CeleryWorkerPool", "pool")
    eventually(lambda: ground.worker_pods() == [], within=SCALED_IN_SECONDS, every=0.3, what=ground.describe_pods)
    left = ground.cluster.kubectl("get", "deployments,secrets,configmaps", "-n", ground.name, "-o", "name").split()
    assert left == ["configmap/kube-root-ca.crt"]


@pytest.mark.parametrize("kind", ["CeleryApp", "CeleryWorkerPool"])
def test_a_healthy_resource_is_settled_as_kstatus_wants_it(ground: Playground, kind: str) -> None:
    name = "app"
    if kind == "CeleryWorkerPool":
        name = "pool"
        ground.create_pool(replicas=1)
    ground.wait_condition(kind, name, "Ready", "True", within=60)
    found = ground.wait_condition(kind, name, "Reconciling", "False", within=30)
    resource = ground.get(kind, name)
    assert condition(resource, "Stalled")["status"] == "False"
    assert resource["status"]["observedGeneration"] == resource["metadata"]["generation"]
    assert found["observedGeneration"] == resource["metadata"]["generation"]


def _names(ground: Playground) -> set[str]:
    return {pod["metadata"]["name"] for pod in ground.worker_pods()}


def _scale(ground: Playground, replicas: int) -> None:
    ground.cluster.kubectl("scale", "celpool/pool", f"--replicas={replicas}", "-n", ground.name)


def _scale_subresource(ground: Playground) -> dict[str, Any]:
    path = f"/apis/celery-operator.dev/v1alpha1/namespaces/{ground.name}/celeryworkerpools/pool/scale"
    found = eventually(lambda: _settled(json.loads(ground.cluster.kubectl("get", "--raw", path))), within=15, every=0.3)
    assert found is not None
    return found


def _settled(scale: Manifest) -> Manifest | None:
    return scale if scale["status"]["replicas"] == scale["spec"]["replicas"] else None


def _time_of(event: Manifest) -> str:
    return str(event.get("eventTime") or event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])
