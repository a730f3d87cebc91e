"""Which queues have pools whose workers guard attempts."""

from __future__ import annotations

from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.ports import ObjectKey
from fakes.pools import BROKER_URL
from unit.services.pool_stage import Stage

ONE, OTHER = ObjectKey("a", "one"), ObjectKey("b", "other")


def test_a_queue_is_guarded_while_a_pool_serves_it_on_the_same_broker() -> None:
    guarded = GuardedQueues()
    guarded.note(ONE, "redis://r/0", ["fast", "slow"])
    guarded.note(OTHER, "redis://r/0", ["slow"])
    assert [guarded.serves("redis://r/0", queue) for queue in ("fast", "slow", "none")] == [True, True, False]
    assert not guarded.serves("redis://r/1", "fast")
    guarded.note(ONE, "redis://r/0", ["none"])
    guarded.forget(OTHER)
    assert [guarded.serves("redis://r/0", queue) for queue in ("fast", "slow", "none")] == [False, False, True]


async def test_a_pool_at_zero_guards_its_queues_until_it_is_deleted_and_one_without_an_agent_guards_none() -> None:
    stage = Stage()
    await stage.reconcile()
    assert stage.guarded.serves(BROKER_URL, "celery")
    stage.change(worker={"agent": "None"})
    await stage.reconcile()
    assert not stage.guarded.serves(BROKER_URL, "celery")
    stage.change(worker={})
    await stage.reconcile()
    assert stage.guarded.serves(BROKER_URL, "celery")
    stage.reconciler.forget(ObjectKey("default", "etl"))
    assert not stage.guarded.serves(BROKER_URL, "celery")
