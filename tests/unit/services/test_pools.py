"""The reconciler of pools against fakes, and a whole life of a pool on a simulated cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import BrokerError, ClusterError
from celery_operator.services.apps import AppResolver
from celery_operator.services.pools import PoolReconciler
from celery_operator.services.ports import ObjectKey
from fakes.agents import FakeAgents
from fakes.brokers import FakeConnections
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster
from fakes.kubernetes import FakeKubernetes, address_of
from fakes.pools import BROKER_URL, pool_manifest

SCALING = {"minReplicas": 0, "maxReplicas": 5, "idleTimeoutSeconds": 90}
KEY = ObjectKey("default", "etl")
TOKEN = ObjectKey("default", "etl-agent-token")


class Stage:
    """A reconciler with everything around it."""

    def __init__(self, *objects: dict[str, Any], **spec: Any) -> None:
        self.cluster = FakeCluster(pool_manifest(**spec), *objects)
        self.connections = FakeConnections()
        self.broker = self.connections.broker(BROKER_URL)
        self.agents = FakeAgents()
        self.clock = FakeClock()
        self.kubernetes = FakeKubernetes(self.cluster, self.agents, "etl-worker")
        self.reconciler = self.restarted()

    def restarted(self) -> PoolReconciler:
        return PoolReconciler(
            cluster=self.cluster,
            connections=self.connections,
            agents=self.agents,
            apps=AppResolver(self.cluster),
            clock=self.clock,
            worker_image="bundled",
        )

    async def reconcile(self) -> float:
        return (await self.reconciler.reconcile(self.cluster.must("CeleryWorkerPool", "etl"))).total_seconds()

    async def pass_seconds(self, seconds: float) -> None:
        """Let the pool be looked at, and Kubernetes act, for a while."""
        end = self.clock.passed.total_seconds() + seconds
        while self.clock.passed.total_seconds() < end:
            delay = await self.reconcile()
            assert 0 < delay <= 10
            self.kubernetes.settle()
            self.clock.advance(delay)

    def change(self, **spec: Any) -> None:
        """Change the spec as a user would."""
        manifest = self.cluster.must("CeleryWorkerPool", "etl")
        manifest["spec"] |= spec
        manifest["metadata"]["generation"] += 1
        self.cluster.put(manifest)

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.cluster.must("CeleryWorkerPool", "etl")["status"])

    def condition(self, kind: str) -> tuple[str, str]:
        [found] = [each for each in self.status["conditions"] if each["type"] == kind]
        return found["status"], found["reason"]

    def message(self, kind: str) -> str:
        [found] = [each for each in self.status["conditions"] if each["type"] == kind]
        return str(found["message"])

    @property
    def replicas(self) -> int:
        return int(self.cluster.must("Deployment", "etl-worker")["spec"]["replicas"])

    def warnings(self) -> list[str]:
        return [event.reason for event in self.cluster.events if event.type == "Warning"]

    def normal_events(self) -> list[str]:
        return [event.reason for event in self.cluster.events if event.type == "Normal"]


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


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"appRef": {"name": "shop"}, "app": None}, "AppNotFound", "spec.appRef: there is no CeleryApp default/shop"),
        ({"worker": {"concurrency": 0}}, "InvalidSpec", "spec.worker.concurrency: "),
        ({"worker": {"extraArgs": ["-c", "9"]}}, "ConflictingArguments", "spec.worker.extraArgs[0]: -c"),
        ({"autoscaling": SCALING}, "InvalidSpec", "spec.replicas cannot be set beside autoscaling"),
        (
            {"replicas": None, "autoscaling": {"minReplicas": 6, "maxReplicas": 5}},
            "InvalidSpec",
            "spec.autoscaling.minReplicas (6) must not be greater",
        ),
        ({"queues": [{"name": "a"}, {"name": "a"}]}, "InvalidSpec", "spec.queues names a 2 times"),
        ({"app": {"connection": {"broker": {"url": "sqs://x"}}}}, "UnsupportedBroker", "this transport is not served"),
        (
            {"template": {"spec": {"restartPolicy": "Never"}}},
            "ConflictingArguments",
            "spec.template.spec.restartPolicy",
        ),
    ],
)
async def test_a_spec_that_is_not_accepted_creates_nothing_and_disturbs_nothing(
    spec: dict[str, Any], reason: str, words: str
) -> None:
    fresh = Stage(**{"replicas": 1, **spec})
    assert [await fresh.reconcile(), await fresh.reconcile()] == [1.0, 1.0]
    assert fresh.cluster.writes == ["status CeleryWorkerPool"]
    assert fresh.warnings() == [reason]

    running = Stage(replicas=1)
    await running.pass_seconds(3)
    running.change(**spec)
    before = running.cluster.must("Deployment", "etl-worker")
    await running.pass_seconds(5)
    assert running.cluster.must("Deployment", "etl-worker")["spec"] == before["spec"]
    for stage in (fresh, running):
        assert stage.condition("Accepted") == ("False", reason)
        assert stage.message("Accepted").startswith(words)
        assert stage.condition("Stalled") == ("True", "NotAccepted")


async def test_a_pool_whose_changed_spec_is_wrong_scales_on_as_it_was_accepted_last() -> None:
    stage = Stage(autoscaling=SCALING)
    await stage.pass_seconds(3)
    stage.change(worker={"concurrency": 0})
    stage.broker.queues["celery"] = 4
    await stage.pass_seconds(3)
    assert (stage.replicas, stage.condition("Accepted")[0]) == (4, "False")


async def test_a_missing_app_heals_when_it_appears() -> None:
    stage = Stage(appRef={"name": "shop"}, replicas=1)
    await stage.reconcile()
    connection = {"broker": {"url": BROKER_URL}}
    stage.cluster.put({"kind": "CeleryApp", "metadata": {"name": "shop"}, "spec": {"connection": connection}})
    await stage.pass_seconds(3)
    assert (stage.replicas, stage.condition("Accepted")) == (1, ("True", "Accepted"))


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


async def test_a_deployment_or_secret_of_somebody_else_is_never_taken_over() -> None:
    foreign = {"kind": "Deployment", "metadata": {"name": "etl-worker"}, "spec": {"replicas": 9}}
    stage = Stage(foreign, replicas=1)
    await stage.reconcile()
    assert (stage.condition("Accepted"), stage.replicas) == (("False", "InvalidSpec"), 9)
    stage = Stage({"kind": "Secret", "metadata": {"name": "etl-agent-token"}}, replicas=1)
    await stage.reconcile()
    assert stage.message("Accepted").startswith("there is a Secret default/etl-agent-token that is not the pool's own")
    assert stage.cluster.writes == ["status CeleryWorkerPool"]


async def test_what_an_earlier_pool_of_the_name_left_is_waited_for() -> None:
    owners = [{"kind": "CeleryWorkerPool", "name": "etl", "uid": "earlier", "controller": True}]
    left = {"kind": "Secret", "metadata": {"name": TOKEN.name, "ownerReferences": owners}, "stringData": {"token": "t"}}
    stage = Stage(left, replicas=1)
    await stage.reconcile()
    assert stage.cluster.writes == []
    await stage.cluster.delete("Secret", TOKEN)
    await stage.pass_seconds(2)
    assert stage.replicas == 1


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
    gone = stage.cluster.must("CeleryWorkerPool", "etl")
    await stage.cluster.delete("CeleryWorkerPool", KEY)
    await stage.reconciler.reconcile(gone)
    stage.reconciler.forget(KEY)
    assert stage.cluster.events == []


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
