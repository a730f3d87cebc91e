"""RabbitMQ as the broker: the same pools and workflows, with results in Redis."""

from __future__ import annotations

from servers import eventually
from support import manifests
from support.ledger import assert_each_once
from support.manifests import autoscaling, fan_out_and_total
from support.playground import Playground, condition

RUN_SECONDS = 90.0
ITEMS = 24


def test_a_pool_on_rabbitmq_goes_from_zero_to_zero_for_a_fan_out_that_runs_once(ground: Playground) -> None:
    broker = {"url": ground.start_rabbitmq()}
    ground.api.create(manifests.app(ground.name, "rabbit", broker=broker, backend={"url": ground.redis_url(1)}))
    ground.wait_condition("CeleryApp", "rabbit", "Ready", "True", within=30)
    ground.create_pool(app="rabbit", autoscaling=autoscaling(most=3, idle_timeout=5))
    ground.create_workflow("numbers", app="rabbit", **fan_out_and_total(items=ITEMS, seconds=1.0, parallelism=ITEMS))
    pool = ground.wait(
        "CeleryWorkerPool", "pool", lambda it: it["status"]["replicas"] == 3, within=60, what="3 workers"
    )
    assert condition(pool, "BrokerReachable")["status"] == "True"
    ended = ground.wait_ended("numbers", within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["reason"] == "Completed", ended["status"]
    assert ground.outputs("numbers") == {"total": sum(range(ITEMS))}
    assert_each_once(ground.ledger.entries(), ground.task_ids("numbers", "numbers", ITEMS))
    ground.wait("Deployment", "pool-worker", lambda it: it["spec"]["replicas"] == 0, within=60, what="no replicas")
    eventually(lambda: ground.worker_pods() == [], within=45, every=0.3, what="the end of all workers")
