"""The reconciler of pools against fakes, and a whole life of a pool on a simulated cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import BrokerError, ClusterError, Gone
from celery_operator.services.ports import ObjectKey
from fakes.kubernetes import address_of
from fakes.pools import BROKER_URL
from unit.services.pool_stage import KEY, SCALING, Stage

# ------------------------------------------------------------------------------------------------------- a pool's life


async def test_a_pool_grows_from_zero_to_three_and_shrinks_to_the_one_that_is_busy_and_to_zero() -> None:
    stage = Stage(autoscaling=SCALING)
    await stage.pass_seconds(2)
    assert (stage.replicas, stage.condition("Ready")) == (0, ("True", "MinimumReplicasReady"))

    stage.broker.queues["celery"] = 3
    await stage.pass_seconds(1)
    assert stage.replicas == 3
    first, busy, last = stage.kubernetes.addresses()
    stage.broker.queues["celery"] = 0
    for address in (first, busy, last):
        stage.agents.take(address, 1)
    await stage.pass_seconds(5)
    for address in (first, last):
        stage.agents.take(address, 0)
    await stage.pass_seconds(50)
    assert (stage.replicas, stage.kubernetes.removed, stage.agents.calls) == (3, [], [])

    await stage.pass_seconds(20)
    assert stage.replicas == 1
    assert sorted(stage.kubernetes.removed) == [first, last]
    assert stage.agents.calls == [f"drain {first}", f"drain {last}"]
    assert stage.kubernetes.addresses() == [busy]
    assert stage.status["slots"] == {"total": 1, "busy": 1, "reserved": 0, "scheduled": 0}

    stage.agents.take(busy, 0)
    await stage.pass_seconds(85)
    assert stage.replicas == 1
    await stage.pass_seconds(15)
    assert (stage.replicas, stage.kubernetes.removed[-1]) == (0, busy)
    assert stage.normal_events() == [
        "CreatedDeployment",
        "ScaledOut",
        "DrainStarted",
        "ScaledIn",
        "DrainStarted",
        "ScaledIn",
    ]
    assert stage.warnings() == []


async def test_a_fixed_pool_that_is_made_smaller_keeps_its_busy_workers() -> None:
    stage = Stage(replicas=3)
    await stage.pass_seconds(3)
    busy = stage.kubernetes.addresses()[0]
    stage.agents.take(busy, 1)
    stage.change(replicas=1)
    await stage.pass_seconds(10)
    assert (stage.replicas, stage.kubernetes.addresses()) == (1, [busy])
    assert (stage.status["replicas"], stage.status["selector"]) == (1, "celery-operator.dev/pool=etl")


async def test_demand_that_comes_back_calls_off_the_drain() -> None:
    stage = Stage(replicas=2)
    await stage.pass_seconds(3)
    first, second = stage.kubernetes.addresses()
    stage.agents.take(second, 1)
    stage.change(replicas=1)
    await stage.reconcile()
    stage.change(replicas=2)
    await stage.pass_seconds(3)
    assert stage.agents.calls == [f"drain {first}", f"resume {first}"]
    assert (stage.replicas, stage.kubernetes.removed) == (2, [])


async def test_an_operator_that_restarts_in_the_middle_of_a_drain_goes_on() -> None:
    stage = Stage(replicas=2)
    await stage.pass_seconds(3)
    stage.change(replicas=1)
    await stage.reconcile()
    stage.reconciler = stage.restarted()
    await stage.pass_seconds(3)
    assert (stage.replicas, len(stage.kubernetes.removed)) == (1, 1)
    assert [call.split()[0] for call in stage.agents.calls] == ["drain"]


async def test_a_broker_that_does_not_answer_holds_the_replicas_and_is_told_once() -> None:
    stage = Stage(autoscaling=SCALING)
    stage.broker.queues["celery"] = 2
    await stage.pass_seconds(3)
    stage.broker.queues["celery"] = 0
    stage.broker.error = BrokerError(f"no connection to {BROKER_URL}")
    await stage.pass_seconds(200)
    assert stage.replicas == 2
    assert stage.condition("BrokerReachable") == ("False", "ConnectionFailed")
    assert stage.condition("ScalingActive") == ("False", "DemandUnknown")
    assert sorted(stage.warnings()) == ["ConnectionFailed", "DemandUnknown"]
    assert "waiting" not in stage.status
    stage.broker.error = None
    await stage.pass_seconds(55)
    assert stage.replicas == 2
    await stage.pass_seconds(50)
    assert stage.replicas == 0


async def test_a_silent_worker_is_never_removed() -> None:
    stage = Stage(autoscaling=SCALING)
    stage.broker.queues["celery"] = 2
    await stage.pass_seconds(3)
    stage.broker.queues["celery"] = 0
    del stage.agents.states[stage.kubernetes.addresses()[0]]
    await stage.pass_seconds(200)
    assert (stage.replicas, stage.kubernetes.removed, stage.agents.calls) == (2, [], [])


# ------------------------------------------------------------------------------------------------------------- details


async def test_the_first_looks_make_token_and_deployment_and_then_nothing_is_written() -> None:
    stage = Stage(replicas=1)
    await stage.pass_seconds(5)
    writes = list(stage.cluster.writes)
    assert [write for write in writes if not write.startswith("status")] == ["create Secret", "apply Deployment"]
    await stage.pass_seconds(60)
    assert stage.cluster.writes == writes
    deployment = stage.cluster.must("Deployment", "etl-worker")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "bundled"


async def test_draining_uses_the_pools_token() -> None:
    stage = Stage(replicas=1)
    await stage.pass_seconds(3)
    stage.agents.token = stage.cluster.must("Secret", "etl-agent-token")["stringData"]["token"]
    stage.change(replicas=0)
    await stage.pass_seconds(3)
    assert stage.replicas == 0


async def test_a_changed_spec_is_applied_without_touching_the_replicas() -> None:
    stage = Stage(autoscaling=SCALING)
    stage.broker.queues["celery"] = 4
    await stage.pass_seconds(3)
    stage.change(drain={"timeoutSeconds": 60})
    await stage.pass_seconds(2)
    spec = stage.cluster.must("Deployment", "etl-worker")["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["terminationGracePeriodSeconds"]) == (4, 90)
    assert stage.normal_events() == ["CreatedDeployment", "UpdatedDeployment"]


async def test_another_password_in_the_secret_rolls_the_pods() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "shop"}, "stringData": {"broker": "redis://:one@redis"}}
    reference = {"urlFrom": {"secretKeyRef": {"name": "shop", "key": "broker"}}}
    stage = Stage(secret, replicas=1, app={"connection": {"broker": reference}})
    await stage.pass_seconds(3)
    before = stage.cluster.must("Deployment", "etl-worker")["spec"]["template"]["metadata"]["annotations"]
    stage.cluster.put({**secret, "stringData": {"broker": "redis://:two@redis"}})
    await stage.pass_seconds(8)
    after = stage.cluster.must("Deployment", "etl-worker")["spec"]["template"]["metadata"]["annotations"]
    assert before != after
    assert "redis://:" not in str(stage.cluster.must("Deployment", "etl-worker")) + str(stage.cluster.events)


async def test_somebody_elses_edit_of_the_deployment_is_put_right() -> None:
    stage = Stage(replicas=1)
    await stage.pass_seconds(3)
    deployment = stage.cluster.must("Deployment", "etl-worker")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    deployment["metadata"]["generation"] += 1
    stage.cluster.put(deployment)
    await stage.pass_seconds(6)
    assert (
        stage.cluster.must("Deployment", "etl-worker")["spec"]["template"]["spec"]["containers"][0]["image"]
        == "bundled"
    )


async def test_what_kubernetes_refuses_is_told_in_its_words_and_tried_again() -> None:
    stage = Stage(replicas=1)
    stage.cluster.refusal = "Deployment is invalid: spec.template.spec.priorityClassName: not found"
    await stage.reconcile()
    assert await stage.reconcile() == 5.0
    assert stage.condition("Ready") == ("False", "PodsRefused")
    assert stage.message("Ready") == stage.cluster.refusal
    assert stage.warnings() == ["PodsRefused"]
    stage.cluster.refusal = None
    await stage.pass_seconds(8)
    assert stage.condition("Ready") == ("True", "MinimumReplicasReady")


async def test_mere_counts_are_written_now_and_then_only() -> None:
    stage = Stage(replicas=1)
    await stage.pass_seconds(20)
    written = len(stage.cluster.writes)
    for waiting in range(20):
        stage.broker.queues["celery"] = waiting
        await stage.reconcile()
        stage.clock.advance(1)
    assert 3 <= len(stage.cluster.writes) - written <= 5


async def test_a_watch_that_is_behind_costs_no_conflicts() -> None:
    stage = Stage(replicas=1)
    old = stage.cluster.must("CeleryWorkerPool", "etl")
    for _ in range(4):
        await stage.reconciler.reconcile(old)
        stage.kubernetes.settle()
        stage.clock.advance(5)
    assert stage.condition("Ready") == ("True", "MinimumReplicasReady")


async def test_a_status_that_somebody_else_wrote_meanwhile_is_written_at_the_next_look() -> None:
    stage = Stage(replicas=1)
    old = stage.cluster.must("CeleryWorkerPool", "etl")
    stage.cluster.put(replace_label(old))
    assert (await stage.reconciler.reconcile(old)).total_seconds() == 0.3
    await stage.reconciler.reconcile(old)
    assert stage.condition("Accepted") == ("True", "Accepted")


def replace_label(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "labels": {"by": "somebody"}}}


async def test_a_scale_that_comes_too_late_is_planned_again() -> None:
    stage = Stage(autoscaling=SCALING)
    await stage.pass_seconds(3)
    stage.broker.queues["celery"] = 2
    deployment = stage.cluster.must("Deployment", "etl-worker")
    real = stage.cluster.pods

    async def pods(namespace: str, labels: Any) -> Any:
        stage.cluster.put(deployment)
        return await real(namespace, labels)

    stage.cluster.pods = pods  # type: ignore[method-assign]
    assert await stage.reconcile() == 0.3
    assert stage.replicas == 0
    stage.cluster.pods = real  # type: ignore[method-assign]
    await stage.reconcile()
    assert stage.replicas == 2


async def test_a_pool_that_is_deleted_is_left_alone_and_forgotten() -> None:
    stage = Stage(replicas=1)
    manifest = stage.cluster.must("CeleryWorkerPool", "etl")
    manifest["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    await stage.reconciler.reconcile(manifest)
    assert stage.cluster.writes == []
    stage.reconciler.forget(KEY)
    assert stage.cluster.events == []


async def test_a_pool_whose_deletion_nobody_reported_creates_nothing_again() -> None:
    stage = Stage(replicas=1)
    gone = stage.cluster.must("CeleryWorkerPool", "etl")
    await stage.pass_seconds(3)
    for kind, key in [*stage.cluster.objects]:  # its garbage is collected
        await stage.cluster.delete(kind, key)
    stage.cluster.writes.clear()
    with pytest.raises(Gone):
        await stage.reconciler.reconcile(gone)
    assert stage.cluster.writes == []
    stage.cluster.put({**gone, "metadata": {**gone["metadata"], "uid": "another"}})
    with pytest.raises(Gone):
        await stage.reconciler.reconcile(gone)
    assert stage.cluster.writes == []


async def test_a_token_secret_that_kubernetes_refuses_is_reported_in_its_words() -> None:
    stage = Stage(replicas=1)

    async def refuse(manifest: dict[str, Any]) -> Any:
        raise ClusterError(f"exceeded quota: secrets ({manifest['kind']})")

    stage.cluster.create = refuse  # type: ignore[method-assign]
    assert await stage.reconcile() == 5.0
    assert stage.condition("Ready") == ("False", "PodsRefused")
    assert stage.message("Ready") == "exceeded quota: secrets (Secret)"
    assert stage.condition("Accepted") == ("True", "Accepted")


async def test_an_api_server_that_does_not_answer_is_the_callers_matter() -> None:
    stage = Stage(replicas=1)

    async def fail(kind: str, key: ObjectKey) -> Any:
        raise ClusterError(f"the API server does not answer: {kind} {key}")

    stage.cluster.get = fail  # type: ignore[method-assign]
    with pytest.raises(ClusterError):
        await stage.reconcile()


async def test_workers_without_agent_are_scaled_plainly() -> None:
    stage = Stage(autoscaling=SCALING, worker={"agent": "None"})
    stage.broker.queues["celery"] = 3
    await stage.pass_seconds(3)
    assert (stage.replicas, stage.condition("DrainSupported")) == (3, ("False", Reason.AGENT_MISSING.value))
    stage.broker.queues["celery"] = 0
    await stage.pass_seconds(120)
    assert (stage.replicas, stage.agents.calls) == (0, [])


async def test_tasks_that_are_held_for_later_keep_one_worker() -> None:
    stage = Stage(autoscaling=SCALING)
    stage.broker.queues["celery"] = 2
    await stage.pass_seconds(3)
    stage.broker.queues["celery"] = 0
    holder = address_of(stage.kubernetes.pods()[0])
    stage.agents.states[holder] = replace(stage.agents.states[holder], scheduled=1)
    await stage.pass_seconds(200)
    assert stage.kubernetes.addresses() == [holder]
