"""The workflow engine against workers in memory: publishing, following, restarting, reporting."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from celery_operator.adapters.clock import SystemClock
from celery_operator.domain.errors import BrokerError, ResultBackendError
from celery_operator.domain.messages import Claim
from celery_operator.services.apps import AppResolver
from celery_operator.services.ports import Manifest, ObjectKey
from celery_operator.services.workflows.engine import WorkflowEngine
from celery_operator.services.workflows.listener import SETTLED_AFTER
from fakes.cluster import FakeCluster
from fakes.workers import SimulatedWorkers
from servers_process import PATIENCE

APP = {"connection": {"broker": {"url": "redis://r/0"}, "resultBackend": {"url": "redis://r/1"}}}
KEY = ObjectKey("default", "w")
RESULT = [{"name": "result", "valueFrom": {"result": "$"}}]


def add(x: int, y: int) -> int:
    return x + y


def task(name: str, *args: Any, **options: Any) -> dict[str, Any]:
    return {"task": {"name": name, "args": [{"value": arg} for arg in args], **options}}


CHAIN = {"chain": [task("add", 4, 4), task("add", 10), task("add", 100)], "outputs": RESULT}


def workflow(**spec: Any) -> Manifest:
    return {
        "apiVersion": "celery-operator.dev/v1alpha1",
        "kind": "CeleryWorkflow",
        "metadata": {"name": "w", "namespace": "default", "uid": str(uuid.uuid4())},
        "spec": {"app": APP, **spec},
    }


class HurriedClock(SystemClock):
    """Real time that can be told to go ahead."""

    ahead = timedelta()

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead


class World:
    """A cluster, workers, and an engine that can be replaced by its successor."""

    def __init__(self, workers: SimulatedWorkers) -> None:
        self.cluster = FakeCluster()
        self.workers = workers
        self.clock = HurriedClock()
        self.engine = self.new_engine()

    def new_engine(self) -> WorkflowEngine:
        return WorkflowEngine(
            cluster=self.cluster,
            connections=self.workers,
            apps=AppResolver(self.cluster),
            clock=self.clock,
        )

    def apply(self, manifest: Manifest) -> None:
        self.uid = manifest["metadata"]["uid"]
        self.engine.observe(self.cluster.put(manifest))

    async def restart(self) -> None:
        """What a crash and its successor do: nothing is carried over but what the cluster and the backend hold."""
        await self.engine.close()
        self.engine = self.new_engine()
        self.engine.observe(self.cluster.must("CeleryWorkflow", "w"))

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.cluster.objects.get(("CeleryWorkflow", KEY), {}).get("status") or {})

    def condition(self, type_: str) -> tuple[str, str]:
        found = [c for c in self.status.get("conditions", []) if c["type"] == type_]
        return (found[0]["status"], found[0]["reason"]) if found else ("absent", "")

    async def until(self, check: Callable[[], bool], within: float = 5.0) -> None:
        deadline = time.monotonic() + PATIENCE * within  # noqa: TID251 - a deadline of the test itself
        while not check():
            assert time.monotonic() < deadline, f"not within {PATIENCE} times {within} s; status {self.status}"  # noqa: TID251
            await asyncio.sleep(0.005)

    async def ended(self, within: float = 5.0) -> tuple[str, str]:
        await self.until(lambda: self.condition("Succeeded")[0] in ("True", "False"), within)
        return self.condition("Succeeded")


@asynccontextmanager
async def world(**functions: Callable[..., Any]) -> AsyncIterator[World]:
    it = World(SimulatedWorkers(**functions))
    yield it
    await it.engine.close()


async def test_a_chain_passes_results_on_and_ends_with_its_output() -> None:
    async with world(add=add) as it:
        it.apply(workflow(**CHAIN))
        assert await it.ended() == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": 118}]
        assert it.status["progress"] == "3/3"
        assert set(it.workers.starts.values()) == {1}


async def test_a_chain_may_stand_in_a_group_in_a_chain() -> None:
    async with world(add=add, total=sum) as it:
        branch = {"chain": [task("add", 10), task("add", 100)]}
        group = {"group": [branch, task("add", 1000)]}
        it.apply(workflow(chain=[task("add", 1, 1), group, task("total")], outputs=RESULT))
        assert await it.ended() == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": (1 + 1 + 10 + 100) + (1 + 1 + 1000)}]


async def test_a_short_workflow_costs_one_status_write() -> None:
    async with world(add=add) as it:
        it.apply(workflow(**CHAIN))
        await it.ended()
        assert it.cluster.writes == ["status CeleryWorkflow"]


async def test_every_condition_is_there_soon_while_a_task_waits() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: bool(it.status), within=1.0)
        assert it.condition("Succeeded") == ("Unknown", "Running")
        assert it.condition("Accepted") == ("True", "Accepted")
        assert it.condition("Reconciling")[0] == "True"
        assert it.condition("Stalled")[0] == "False"
        assert it.condition("Suspended")[0] == "False"
        assert it.status["phase"] in ("Pending", "Running")


async def test_a_large_fan_out_shows_itself_before_its_last_message_is_sent() -> None:
    async with world(add=add) as it:
        it.workers.sendable.clear()
        items = {"items": {"range": {"start": 0, "end": 1000}}, "task": task("add", 1, 1)["task"]}
        it.apply(workflow(dag={"steps": [{"name": "all", "map": items}]}))
        await it.until(lambda: it.status.get("phase") == "Running")
        assert it.workers.queue == []
        it.workers.sendable.set()
        assert await it.ended() == ("True", "Completed")


async def test_what_was_not_announced_is_found_by_the_sweep() -> None:
    async with world(add=add) as it:
        it.workers.announcing = False
        it.apply(workflow(group=[task("add", 1, 1), task("add", 2, 2)], outputs=RESULT))
        assert await it.ended() == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": [2, 4]}]


async def test_a_successor_goes_on_without_running_anything_twice() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: len(it.workers.queue) == 1)
        await it.until(lambda: bool(it.status))
        await it.restart()
        await it.until(lambda: len(it.workers.queue) >= 1)
        it.workers.paused = False
        it.workers.run_all()
        assert await it.ended() == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": 118}]
        assert set(it.workers.starts.values()) == {1}


async def test_a_successor_takes_over_results_that_came_while_nobody_listened() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: bool(it.status))
        await it.engine.close()
        it.workers.run_all()
        it.workers.paused = False
        await it.restart()
        assert await it.ended() == ("True", "Completed")
        assert set(it.workers.starts.values()) == {1}


async def test_a_fan_out_survives_a_restart_in_the_middle() -> None:
    async with world(add=add, total=sum) as it:
        it.workers.paused = True
        it.apply(
            workflow(
                mapReduce={
                    "items": {"range": {"end": 300}},
                    "map": {"name": "add", "args": [{"valueFrom": {"item": "$"}}, {"value": 0}]},
                    "reduce": {"name": "total"},
                },
                outputs=RESULT,
            )
        )
        await it.until(lambda: len(it.workers.queue) == 300)
        await it.until(lambda: bool(it.status))
        for message in it.workers.queue[:150]:
            it.workers.run(message)
        del it.workers.queue[:150]
        await it.restart()
        it.workers.paused = False
        it.workers.run_all()
        assert await it.ended() == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": sum(range(300))}]
        assert set(it.workers.starts.values()) == {1}


async def test_a_failing_task_is_retried_as_a_new_attempt_and_then_fails_the_run() -> None:
    def fail() -> None:
        raise ValueError("no luck")

    async with world(fail=fail) as it:
        retry = {"limit": 2, "backoff": {"initialSeconds": 0, "maxSeconds": 0}}
        it.apply(workflow(chain=[task("fail", retry=retry)]))
        assert await it.ended() == ("False", "TaskFailed")
        assert it.workers.ran == ["s0[0]#1", "s0[0]#2", "s0[0]#3"]
        assert [(each["attempt"], each["exception"]) for each in it.status["failures"]][-1][1] == "ValueError"
        assert [event.reason for event in it.cluster.events if event.type == "Warning"] == ["TaskFailed"]


async def test_suspended_publishes_nothing_until_it_is_resumed() -> None:
    async with world(add=add) as it:
        manifest = workflow(**CHAIN, suspend=True)
        it.apply(manifest)
        await it.until(lambda: it.condition("Suspended") == ("True", "SuspendedBySpec"))
        assert it.workers.ran == []
        live = it.cluster.must("CeleryWorkflow", "w")
        live["spec"]["suspend"] = False
        live["metadata"]["generation"] += 1
        it.apply(live)
        assert await it.ended() == ("True", "Completed")


async def test_a_broker_that_is_down_delays_and_loses_nothing() -> None:
    async with world(add=add) as it:
        it.workers.broker_error = BrokerError("cannot reach redis://r/0: refused")
        it.apply(workflow(**CHAIN))
        await it.until(lambda: it.condition("BrokerReachable") == ("False", "ConnectionFailed"))
        it.workers.broker_error = None
        assert await it.ended(within=8.0) == ("True", "Completed")
        assert set(it.workers.starts.values()) == {1}


async def test_a_backend_that_is_down_is_told_and_outlasted() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.workers.backend_error = ResultBackendError("cannot reach redis://r/1: refused")
        it.apply(workflow(**CHAIN))
        await it.until(lambda: it.condition("ResultBackendReachable") == ("False", "ConnectionFailed"))
        it.workers.backend_error = None
        it.workers.paused = False
        it.workers.run_all()
        assert await it.ended(within=8.0) == ("True", "Completed")


async def test_a_backend_that_stays_away_does_not_keep_a_run_beyond_its_deadline() -> None:
    """All tasks have succeeded, which was announced; only what they returned cannot be read for the outputs."""
    async with world(add=lambda x, y: "x" * (x + y)) as it:
        it.workers.paused = True
        it.apply(workflow(**{**CHAIN, "chain": [task("add", 10_000, 0)], "runPolicy": {"activeDeadlineSeconds": 60}}))
        await it.until(lambda: len(it.workers.queue) == 1)
        it.workers.backend_error = ResultBackendError("cannot reach redis://r/1: refused")
        it.workers.run_all()
        await it.until(lambda: it.condition("Stalled") == ("True", "StoreUnreachable"))
        assert it.condition("ResultBackendReachable") == ("False", "ConnectionFailed")
        it.clock.ahead += timedelta(seconds=61)
        assert await it.ended() == ("True", "Completed")
        assert it.status["message"] == (
            "1 task succeeded; output 'result': cannot be read: activeDeadlineSeconds passed before the result "
            "backend answered: cannot reach redis://r/1: refused"
        )
        assert not it.status.get("outputs")


async def test_a_defect_of_the_operator_is_told_and_the_run_goes_on_once_it_is_gone() -> None:
    async with world(add=add) as it:
        it.workers.sendable.clear()
        it.workers.defect = ZeroDivisionError("password s3cret")
        it.apply(workflow(**CHAIN))
        it.workers.sendable.set()
        await it.until(lambda: it.condition("Stalled") == ("True", "OperatorDefect"))
        assert it.status["message"].startswith("ZeroDivisionError: a defect of the operator, which tries again")
        it.workers.defect = None
        assert await it.ended(within=8.0) == ("True", "Completed")
        assert it.condition("Stalled") == ("False", "MakingProgress")


async def test_messages_that_the_broker_lost_are_published_again() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(group=[task("add", 1, 1), task("add", 2, 2)], outputs=RESULT))
        await it.until(lambda: len(it.workers.queue) == 2)
        it.workers.run(it.workers.queue[0])
        it.workers.queue.clear()
        it.workers.paused = False
        assert await it.ended(within=20.0) == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": [2, 4]}]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"chain": [task("add")], "group": [task("add")]}, "InvalidSpec", id="two kinds of work"),
        pytest.param({"chian": [task("add")]}, "InvalidSpec", id="unknown field"),
        pytest.param({"chain": [{"group": [{"tsk": {}}]}]}, "InvalidSpec", id="unknown field where the CRD is silent"),
        pytest.param({"app": None, "appRef": {"name": "no"}, "chain": [task("add")]}, "AppNotFound", id="no app"),
        pytest.param(
            {"dag": {"steps": [{"name": n, "dependsOn": [{"step": d}], **task("add")} for n, d in ("ab", "ba")]}},
            "CycleDetected",
            id="cycle",
        ),
        pytest.param(
            {"dag": {"steps": [{"name": "a", "dependsOn": [{"step": "z"}], **task("add")}]}},
            "UnknownStep",
            id="unknown dependency",
        ),
    ],
)
async def test_a_wrong_spec_is_refused_at_once_with_its_reason(spec: dict[str, Any], reason: str) -> None:
    async with world(add=add) as it:
        manifest = workflow(**spec)
        manifest["spec"] = {name: value for name, value in manifest["spec"].items() if value is not None}
        it.apply(manifest)
        await it.until(lambda: it.condition("Accepted") == ("False", reason), within=1.0)
        assert it.workers.ran == []
        assert reason in [event.reason for event in it.cluster.events if event.type == "Warning"]


async def test_a_missing_app_heals_when_it_appears() -> None:
    async with world(add=add) as it:
        manifest = workflow(**CHAIN)
        del manifest["spec"]["app"]
        manifest["spec"]["appRef"] = {"name": "shop"}
        it.apply(manifest)
        await it.until(lambda: it.condition("Accepted") == ("False", "AppNotFound"))
        it.cluster.put({"kind": "CeleryApp", "metadata": {"name": "shop"}, "spec": APP})
        assert await it.ended() == ("True", "Completed")


async def test_a_deleted_workflow_revokes_what_waits() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: len(it.workers.queue) == 1)
        await it.cluster.delete("CeleryWorkflow", KEY)
        it.engine.forget(KEY, it.uid)
        await it.until(lambda: it.workers.revoked == [it.workers.queue[0].identity.task_id])
        assert it.engine.active == 0


async def test_a_workflow_whose_status_finds_it_deleted_revokes_what_waits_all_the_same() -> None:
    """The status may be written after the deletion and before it is reported, or the report may never come."""
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: len(it.workers.queue) == 1)
        await it.cluster.delete("CeleryWorkflow", KEY)
        await it.until(lambda: it.workers.revoked == [it.workers.queue[0].identity.task_id])
        assert it.engine.active == 0


async def test_the_end_of_an_earlier_workflow_of_the_same_name_ends_only_that() -> None:
    async with world(add=add) as it:
        it.apply(workflow(**CHAIN))
        it.engine.forget(KEY, "an-earlier-one")
        assert await it.ended() == ("True", "Completed")


@pytest.mark.parametrize(
    ("recovery", "state"), [({}, "Failed"), ({"leaseSeconds": 300}, "Running")], ids=["default", "longer than it"]
)
async def test_a_task_is_not_lost_before_the_lease_of_its_message_is_over(recovery: dict[str, Any], state: str) -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(chain=[task("add", 1, 1)], app={**APP, "recovery": recovery}))
        await it.until(lambda: len(it.workers.queue) == 1)
        await it.until(lambda: bool(it.status))
        dead = it.workers.queue.pop().identity.task_id
        it.workers.claimed[dead] = Claim("running", lease_over=True, seconds_since_lease=100.0)
        await it.restart()
        await it.until(lambda: it.status["tasks"]["running"] == 1)
        it.clock.ahead += SETTLED_AFTER
        looked = it.workers.reads
        await it.until(lambda: it.workers.reads > looked)
        await it.until(lambda: it.status["steps"][0]["state"] == state)
        assert it.status["steps"][0]["state"] == state


async def test_a_finished_workflow_is_left_alone() -> None:
    async with world(add=add) as it:
        it.apply(workflow(**CHAIN))
        await it.ended()
        before = list(it.cluster.writes)
        await it.restart()
        assert it.engine.active == 0
        assert it.cluster.writes == before
