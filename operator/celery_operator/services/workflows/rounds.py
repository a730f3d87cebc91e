"""The rounds a run makes through what it has published: what was never announced, what is gone, who starves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_operator.domain.errors import BrokerError, ResultBackendError
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lookups import Outstanding, outstanding
from celery_operator.domain.workflows.lost import LOST_AFTER_SECONDS
from celery_operator.domain.workflows.plan import Outcome
from celery_operator.domain.workflows.report import Reachability, Stall
from celery_operator.domain.workflows.state import RunState
from celery_operator.services.ports import Broker
from celery_operator.services.workflows.listener import BackendListener
from celery_operator.services.workflows.sweep import SLICE, sweep
from celery_operator.services.workflows.unseen import Unseen


@dataclass(frozen=True, slots=True)
class Round:
    """What one look at a slice of the outstanding tasks has shown."""

    backend: Reachability
    broker: Reachability | None = None
    """None: it was not asked."""
    outcomes: tuple[Outcome, ...] = ()
    gone: tuple[Outstanding, ...] = ()
    """Neither a worker nor a queue has these any more, and workers guard attempts: they may be published again."""
    stall: Stall | None = None
    more: bool = False
    """Further slices wait to be looked at."""


class Rounds:
    """Looks at the outstanding tasks of one run, a slice at a time.

    Args:
        uid: The workflow's.
        graph: Of the run.
        broker: Says how much waits in a queue.
        listener: Of the result backend that knows results and claims.
        lost_after: Seconds after which a task counts as lost that does not say so itself.
        guards: Whether a pool serves a queue whose workers guard attempts, even if none has been heard of yet.
    """

    def __init__(
        self,
        *,
        uid: str,
        graph: Graph,
        broker: Broker,
        listener: BackendListener,
        lost_after: int = LOST_AFTER_SECONDS,
        guards: Callable[[str], bool] = lambda _queue: False,
    ) -> None:
        self._uid = uid
        self._graph = graph
        self._broker = broker
        self._listener = listener
        self._lost_after = lost_after
        self._guards = guards
        self._unseen = Unseen()
        self._position: tuple[str, int] | None = None

    @property
    def begins(self) -> bool:
        """Whether the next slice is the first of a round."""
        return self._position is None

    async def look(self, state: RunState, *, now: datetime, quiet: bool) -> Round:
        """Look at the next slice.

        Args:
            state: Of the run.
            now: The time.
            quiet: Whether there has been no progress for so long that starving queues are worth a condition.
        """
        if self.begins:
            self._unseen.begin_round()
        after, lost_after = self._position, self._lost_after
        tasks = list(outstanding(self._graph, state, uid=self._uid, limit=SLICE, after=after, lost_after=lost_after))
        self._position = (tasks[-1].step, tasks[-1].index) if len(tasks) == SLICE else None
        try:
            if not tasks:
                await self._listener.backend.check()
            swept = await sweep(self._listener.backend, tasks, now=now, settled=self._listener.settled)
        except ResultBackendError as error:
            self._listener.failed()
            self._unseen.keep(tasks)
            return Round(backend=Reachability.down(error), stall=Stall.store(error))
        self._listener.answered()
        if swept.seen_claims:
            self._listener.heard_agents = True
        all_wait = len(swept.never_begun) == sum(step.active for step in state.steps.values())
        return await self._judge(swept.never_begun, swept.outcomes, state=state, now=now, starving=quiet and all_wait)

    async def _judge(
        self,
        never_begun: Sequence[Outstanding],
        outcomes: tuple[Outcome, ...],
        *,
        state: RunState,
        now: datetime,
        starving: bool,
    ) -> Round:
        """Say which of the tasks that nobody has begun are gone, and which queues nobody serves."""
        up, more = Reachability.up(), self._position is not None
        if not never_begun:
            return Round(backend=up, outcomes=outcomes, more=more)
        queue_of = self._queues(state)
        queues = {task.task_id: queue_of(task) for task in never_begun}
        try:
            waiting = await self._broker.waiting(sorted(set(queues.values())))
        except BrokerError as error:
            self._unseen.keep(never_begun)
            down = Reachability.down(error)
            return Round(backend=up, broker=down, outcomes=outcomes, stall=Stall.store(error), more=more)
        guarded = {queue for queue in waiting if self._listener.heard_agents or self._guards(queue)}
        gone = self._unseen.gone(never_begun, queues=queues, waiting=waiting, now=now, guarded=guarded)
        again = tuple(task for task in gone if queues[task.task_id] in guarded)
        silent = [task for task in gone if queues[task.task_id] not in guarded]
        starved = sorted({queue for queue in queues.values() if waiting[queue]})
        stall = Stall.no_workers(starved) if starved and starving else None
        if silent:
            stall = Stall.out_of_sight(len(silent), sorted({queues[task.task_id] for task in silent}))
        return Round(
            backend=up,
            broker=up,
            outcomes=outcomes,
            gone=again,  # without agents a task might run twice: it is not known whether a worker has begun it
            stall=stall,
            more=more,
        )

    def _queues(self, state: RunState) -> Callable[[Outstanding], str]:
        def queue_of(task: Outstanding) -> str:
            if task.resumption is not None and task.resumption.queue:
                return task.resumption.queue
            count = len(state.steps[task.step].items or b"")
            return self._graph.by_name[task.step].call_of(task.index, count).queue

        return queue_of
