"""Which pools are accepted, what is refused and in which words, and how that heals."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.pools import BROKER_URL
from unit.services.pool_stage import SCALING, TOKEN, Stage


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
