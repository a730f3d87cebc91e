"""A run's rounds through what it has published find what is gone, however many other tasks run meanwhile."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import CeleryWorkflow
from celery_operator.domain.errors import ResultBackendError
from celery_operator.domain.messages import Claim, Resumption, TaskResult
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.domain.workflows.lookups import outstanding
from celery_operator.domain.workflows.report import Stall
from celery_operator.domain.workflows.state import CODES, Code, RunState, StepState, initial_state
from celery_operator.services.workflows.listener import SETTLED_AFTER, BackendListener
from celery_operator.services.workflows.rounds import Rounds
from celery_operator.services.workflows.sweep import SLICE
from celery_operator.services.workflows.unseen import UNSEEN_AFTER
from fakes.brokers import FakeBroker, FakeResultBackend
from fakes.clock import FakeClock

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
UID = str(uuid.UUID(int=7))
GONE = 3
APP = {"connection": {"broker": {"url": "redis://r/0"}, "resultBackend": {"url": "redis://r/1"}}}


class Stage:
    """One step of which the first slice's tasks run, and some more are neither with a worker nor in their queue."""

    def __init__(self) -> None:
        items = {"range": {"end": SLICE + GONE}}
        spec = {"app": APP, "dag": {"steps": [{"name": "wide", "map": {"items": items, "task": {"name": "t"}}}]}}
        self.graph = compile_workflow(CeleryWorkflow.model_validate({"spec": spec}).spec)
        self.state = self._published(initial_state(self.graph, now=NOW))
        self.backend, self.broker = FakeResultBackend(), FakeBroker()
        self.tasks = list(outstanding(self.graph, self.state, uid=UID))
        self.backend.claimed = {task.task_id: Claim("running") for task in self.tasks[:SLICE]}
        self.clock = FakeClock()
        self.pooled: set[str] = set()
        self.rounds = Rounds(
            uid=UID,
            graph=self.graph,
            broker=self.broker,
            listener=BackendListener(self.backend, self.clock),
            guards=self.pooled.__contains__,
        )

    @staticmethod
    def _published(state: RunState) -> RunState:
        codes = bytes([Code.RUNNING] * SLICE + [Code.PUBLISHED] * GONE)
        counts = tuple(codes.count(code) for code in range(CODES))
        return replace(state, steps={"wide": StepState(phase="Running", items=codes, counts=counts)})

    async def round(self, now: datetime) -> list[str]:
        """Look at all slices; return the ids of what is gone."""
        gone: list[str] = []
        more = True
        while more:
            found = await self.rounds.look(self.state, now=now, quiet=False)
            gone += [task.task_id for task in found.gone]
            more = found.more
        return gone


async def test_tasks_behind_a_slice_in_which_all_run_are_found_gone() -> None:
    stage = Stage()
    assert await stage.round(NOW) == []
    assert await stage.round(NOW + UNSEEN_AFTER) == [task.task_id for task in stage.tasks[SLICE:]]


async def test_a_task_that_had_begun_and_was_given_back_is_found_gone_too() -> None:
    """Its worker was drained, and then the broker lost what had been given back: nobody else would ever run it."""
    stage = Stage()
    begun = stage.tasks[0]
    stage.backend.claimed[begun.task_id] = Claim("returned", worker="w")
    found = await stage.rounds.look(stage.state, now=NOW, quiet=False)
    assert [(each.index, each.state) for each in found.outcomes if each.index == 0] == [(0, "retrying")]
    await stage.round(NOW)
    assert (await stage.round(NOW + UNSEEN_AFTER))[0] == begun.task_id


async def test_a_lost_retry_that_was_sent_to_another_queue_is_looked_for_there() -> None:
    stage = Stage()
    begun = stage.tasks[0]
    at = Resumption(1, queue="slow")
    stage.backend.claimed[begun.task_id] = Claim("done", resumption=at, retry_overdue_seconds=1.0)
    stage.backend.results[begun.task_id] = TaskResult("RETRY")
    stage.broker.queues = {"slow": 1}
    await stage.round(NOW)
    assert begun.task_id not in await stage.round(NOW + UNSEEN_AFTER), "it may be the message that waits"
    stage.broker.queues = {"celery": 1}
    await stage.round(NOW + 2 * UNSEEN_AFTER)
    found = await stage.rounds.look(stage.state, now=NOW + 3 * UNSEEN_AFTER, quiet=False)
    assert found.gone == (replace(begun, resumption=at),)


async def test_a_task_that_was_begun_between_two_rounds_has_its_time_again() -> None:
    stage = Stage()
    late = stage.tasks[SLICE]
    assert await stage.round(NOW) == []
    stage.backend.claimed[late.task_id] = Claim("running")
    assert await stage.round(NOW + timedelta(seconds=1)) == []
    del stage.backend.claimed[late.task_id]  # given back: its message is in a queue again, or gone with it
    assert late.task_id not in await stage.round(NOW + UNSEEN_AFTER)
    assert await stage.round(NOW + 2 * UNSEEN_AFTER) == [late.task_id]


async def test_tasks_that_left_their_queue_unseen_are_told_of_where_no_agent_was_heard() -> None:
    """They are not published again, since a worker without the agent may run them; but nobody waits in silence."""
    stage = Stage()
    stage.backend.claimed = {}
    alone = replace(stage.state.steps["wide"], items=bytes([Code.PUBLISHED]), counts=_one(Code.PUBLISHED))
    state = replace(stage.state, steps={"wide": alone})
    for later, stalled in ((0, False), (59, False), (60, True), (90, True)):
        found = await stage.rounds.look(state, now=NOW + timedelta(seconds=later), quiet=later >= 30)
        assert (found.gone, found.stall is not None) == ((), stalled)
    assert found.stall is not None
    assert found.stall.reason == Reason.TASKS_OUT_OF_SIGHT
    assert found.stall.message.startswith("1 tasks have left celery, and no worker with the agent has begun them")


async def test_what_was_lost_before_any_worker_was_there_is_published_again_where_a_pool_guards_attempts() -> None:
    """A pool at zero, and a broker that was flushed: nobody would ever announce anything, and so wait for ever."""
    stage = Stage()
    stage.backend.claimed = {}
    stage.pooled.add("celery")
    alone = replace(stage.state.steps["wide"], items=bytes([Code.PUBLISHED]), counts=_one(Code.PUBLISHED))
    state = replace(stage.state, steps={"wide": alone})
    first = await stage.rounds.look(state, now=NOW, quiet=False)
    second = await stage.rounds.look(state, now=NOW + UNSEEN_AFTER, quiet=False)
    assert [len(found.gone) for found in (first, second)] == [0, 1]
    assert second.stall is None


async def test_a_backend_that_does_not_answer_is_told_of_also_while_no_task_is_out() -> None:
    stage = Stage()
    state = initial_state(stage.graph, now=NOW)
    assert (await stage.rounds.look(state, now=NOW, quiet=False)).backend.reachable
    stage.backend.error = ResultBackendError("cannot reach redis://r/1: refused")
    found = await stage.rounds.look(state, now=NOW, quiet=False)
    assert (found.backend.reachable, found.stall) == (False, Stall.store(stage.backend.error))


async def test_nobody_is_taken_for_dead_before_a_backend_that_was_away_can_know_who_lives() -> None:
    """Whoever could not renew in time looks dead: each round below sees the same lease, which was over long ago."""
    stage = Stage()
    silent = stage.tasks[0].task_id
    stage.backend.claimed[silent] = Claim("running", worker="w", lease_over=True, seconds_since_lease=100.0)

    async def told() -> str:
        found = await stage.rounds.look(stage.state, now=stage.clock.now(), quiet=False)
        while not stage.rounds.begins:
            await stage.rounds.look(stage.state, now=stage.clock.now(), quiet=False)
        return next((each.state for each in found.outcomes if each.index == 0), "unknown")

    assert await told() == "started", "asked for the first time"
    stage.clock.advance(SETTLED_AFTER.total_seconds() - 1)
    stage.backend.error = ResultBackendError("cannot reach redis://r/1: refused")
    assert await told() == "unknown"
    stage.backend.error = None
    assert await told() == "started"
    stage.clock.advance(SETTLED_AFTER.total_seconds() - 1)
    assert await told() == "started", "it was away meanwhile"
    stage.clock.advance(1)
    assert await told() == "lost"


def _one(code: Code) -> tuple[int, ...]:
    return tuple(int(each == code) for each in range(CODES))
