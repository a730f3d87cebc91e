"""What arrives late must not undo what was decided since: events, messages, and the writes of a leader that was."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence

import pytest

from celery_operator.api.workflow import WorkflowStatus
from celery_operator.domain.errors import BrokerError, Gone
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.plan import Plan
from celery_operator.domain.workflows.state import Code
from celery_operator.services.ports import Manifest
from celery_operator.services.workflows.run import WorkflowRun
from celery_operator.services.workflows.status import KIND, StatusWriter
from unit.services.test_workflow_engine import CHAIN, KEY, World, add, task, workflow, world


def spec_changed(it: World, **fields: object) -> None:
    """Change the spec as a user does, and let the engine see it."""
    stored = it.cluster.objects[KIND, KEY]
    stored["spec"].update(fields)
    stored["metadata"]["generation"] = stored["metadata"].get("generation", 1) + 1
    it.engine.observe(copy.deepcopy(stored))


async def test_event_from_before_the_end_does_not_begin_the_run_again() -> None:
    async with world(add=add) as it:
        it.apply(workflow(**CHAIN))
        before = copy.deepcopy(it.cluster.must(KIND, "w"))
        assert await it.ended() == ("True", "Completed")
        await it.until(lambda: it.engine.active == 0)
        it.engine.observe(before)
        assert it.engine.active == 0
        it.engine.forget(KEY, before["metadata"]["uid"])
        it.engine.observe({**before, "metadata": {**before["metadata"], "uid": "another of its name"}})
        assert it.engine.active == 1


async def test_refused_workflow_is_not_looked_at_for_ever() -> None:
    async with world(add=add) as it:
        circle = [
            {"name": "a", "dependsOn": [{"step": "b"}], **task("add", 1, 1)},
            {"name": "b", "dependsOn": [{"step": "a"}], **task("add", 1, 1)},
        ]
        it.apply(workflow(dag={"steps": circle}))
        assert await it.ended() == ("False", "InvalidSpec")
        await it.until(lambda: it.engine.active == 0)


async def test_message_that_could_not_be_sent_waits_while_the_workflow_is_suspended() -> None:
    async with world(add=add) as it:
        it.workers.broker_error = BrokerError("cannot reach redis://r/0: refused")
        it.apply(workflow(**CHAIN))
        await it.until(lambda: it.condition("BrokerReachable") == ("False", "ConnectionFailed"))
        spec_changed(it, suspend=True)
        await it.until(lambda: it.condition("Suspended")[0] == "True")
        it.workers.broker_error = None
        await asyncio.sleep(1.5)  # longer than the first pauses between two tries: nothing is to happen
        assert not it.workers.starts
        spec_changed(it, suspend=False)
        assert await it.ended(within=8.0) == ("True", "Completed")


async def test_message_that_could_not_be_sent_is_dropped_when_its_step_is_given_up_and_the_revoke_is_repeated() -> None:
    def bad() -> None:
        raise ValueError("x")

    async with world(add=add, bad=bad) as it:
        it.workers.paused = True
        steps = [
            {"name": "bad", "task": {"name": "bad"}},
            {"name": "gate", **task("add", 1, 1)},
            {"name": "slow", **task("add", 1, 1)},
            {"name": "later", "dependsOn": [{"step": "gate"}], **task("add", 5, 5)},
        ]
        it.apply(workflow(dag={"steps": steps}, runPolicy={"failurePolicy": "FailFast"}))
        await it.until(lambda: len(it.workers.queue) == 3)
        waiting = {message.identity.step: message for message in it.workers.queue}
        it.workers.queue.clear()
        it.workers.broker_error = BrokerError("cannot reach redis://r/0: refused")
        it.workers.run(waiting["gate"])
        await it.until(lambda: it.condition("BrokerReachable")[0] == "False")
        it.workers.run(waiting["bad"])
        await it.until(lambda: it.condition("Succeeded")[0] == "False" or "bad" in str(it.status.get("failures")))
        it.workers.broker_error = None
        assert (await it.ended(within=8.0))[0] == "False"
        assert [message.identity.step for message in it.workers.queue] == []


async def test_run_that_a_defect_has_stopped_goes_on_from_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks before it publishes, as a successor does: its first manifest knows of nothing."""
    struck: list[int] = []
    plan = WorkflowRun._plan

    def strike_once(self: WorkflowRun) -> Plan:
        if not struck and any(step.counts[Code.SUCCEEDED] for step in self._state.steps.values()):
            struck.append(1)
            raise RuntimeError("a defect")
        return plan(self)

    monkeypatch.setattr(WorkflowRun, "_plan", strike_once)
    async with world(add=add) as it:
        sent: list[str] = []
        publish = it.workers.publish

        async def watched(messages: Sequence[TaskMessage]) -> None:
            sent.extend(message.identity.task_id for message in messages)
            await publish(messages)

        monkeypatch.setattr(it.workers, "publish", watched)
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: it.condition("Succeeded")[0] == "Unknown" and len(it.workers.queue) == 1)
        began = it.status["startTime"]
        first = it.workers.queue.pop()
        it.workers.paused = False
        it.workers.run(first)
        assert await it.ended(within=8.0) == ("True", "Completed")
        assert (struck, it.status["startTime"]) == ([1], began)
        assert set(it.workers.starts.values()) == {1}
        assert len(sent) == len(set(sent)), "what had ended was not published again"


def ended_elsewhere(it: World) -> Manifest:
    """Let another process conclude the workflow."""
    stored = it.cluster.objects[KIND, KEY]
    stored["status"]["conditions"] = [
        {"type": "Succeeded", "status": "True", "reason": "Completed", "message": "by the other"}
    ]
    stored["metadata"]["resourceVersion"] = str(int(stored["metadata"]["resourceVersion"]) + 1)
    return stored


async def test_end_that_another_leader_has_written_stands() -> None:
    async with world(add=add) as it:
        it.workers.paused = True
        it.apply(workflow(**CHAIN))
        await it.until(lambda: it.condition("Succeeded")[0] == "Unknown")
        stale = copy.deepcopy(it.cluster.must(KIND, "w"))
        ended_elsewhere(it)
        writer = StatusWriter(it.cluster, KEY, it.uid, str(stale["metadata"]["resourceVersion"]))
        with pytest.raises(Gone, match="ended by another process"):
            await writer.write(WorkflowStatus.model_validate({**stale["status"], "phase": "Running"}))
        final = {**stale["status"], "conditions": [{**stale["status"]["conditions"][0], "type": "Succeeded",
                                                    "status": "False", "reason": "StepFailed"}]}  # fmt: skip
        writer = StatusWriter(it.cluster, KEY, it.uid, str(stale["metadata"]["resourceVersion"]))
        await writer.write(WorkflowStatus.model_validate(final))
        assert it.condition("Succeeded") == ("True", "Completed")
