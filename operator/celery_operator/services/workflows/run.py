"""One workflow's run: observe, advance, carry out, show, and wait for the next sign, until it has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from celery_operator.api.workflow import CeleryWorkflow, Checkpoint, WorkflowStatus
from celery_operator.domain.conditions import rfc3339
from celery_operator.domain.errors import (
    BrokerError,
    CeleryOperatorError,
    ClusterError,
    DependencyError,
    Gone,
    ResultBackendError,
)
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.advance import advance
from celery_operator.domain.workflows.again import publish_again
from celery_operator.domain.workflows.graph import Call, Graph
from celery_operator.domain.workflows.lookups import Outstanding, outstanding
from celery_operator.domain.workflows.plan import Fetch, Finish, Observed, Outcome, Plan
from celery_operator.domain.workflows.report import Reachability, Stall, report
from celery_operator.domain.workflows.state import Code, RunState
from celery_operator.services.failpoints import Failpoint, Reached
from celery_operator.services.ports import Broker, Clock, Cluster, Metrics, ObjectKey
from celery_operator.services.workflows.agenda import Agenda
from celery_operator.services.workflows.checkpoint import (
    CHECKPOINT_INTERVAL,
    FIRST_CHECKPOINT_AFTER,
    checkpoint_key,
    checkpoint_manifest,
)
from celery_operator.services.workflows.fetched import fetched, overdue, task_ids
from celery_operator.services.workflows.listener import BackendListener
from celery_operator.services.workflows.outbox import Outbox
from celery_operator.services.workflows.pace import Pace
from celery_operator.services.workflows.rounds import Rounds
from celery_operator.services.workflows.status import FIRST_WRITE_AFTER, WRITE_INTERVAL, StatusWriter
from celery_operator.services.workflows.sweep import FIRST_INTERVAL, after_progress, next_interval, sweep

log = structlog.get_logger(__name__)

STALLED_AFTER = timedelta(seconds=30)
"""Without any sign of progress for this long, a workflow whose tasks wait says so in its condition Stalled."""

SHOWN_FIRST = 200
"""A run that publishes more than this at once shows itself before it does: it cannot end within the moment that a first
status is put off for, and nobody should wait for the last message to learn that it runs."""

ASK_AGAIN_AFTER = timedelta(seconds=5)
"""How long after a server failed, and how often, it is asked whether the application names another one by now."""

REVOKE_LIMIT = 10_000
"""Most tasks named in one revoke: workers keep them all in memory."""


class ServersMoved(CeleryOperatorError):  # noqa: N818 - the fact itself
    """A server does not answer, and by now the application names another one, or another password."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a run talks to."""

    cluster: Cluster
    broker: Broker
    listener: BackendListener
    writer: StatusWriter
    clock: Clock
    reached: Reached
    metrics: Metrics
    pace: Pace
    lost_after: int
    """Seconds: of the application, for tasks that do not say."""
    guards: Callable[[str], bool]
    """Whether a pool whose workers guard attempts serves a queue."""
    moved: Callable[[], Awaitable[bool]]
    """Whether the application names other servers than this run's. Never raises."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run is about and how far it is."""

    graph: Graph
    state: RunState
    unsent: tuple[TaskMessage, ...] = ()
    """Published, to the state; no broker has taken them yet."""


class WorkflowRun:
    """The run of one accepted workflow. ``drive`` is its whole life; the other methods only leave notes for it."""

    def __init__(
        self,
        *,
        key: ObjectKey,
        uid: str,
        generation: int,
        workflow: CeleryWorkflow,
        progress: Progress,
        adopted: bool,
        ports: Ports,
    ) -> None:
        """``adopted``: an earlier process may have published for this run; look before publishing."""
        self.key = key
        self.uid = uid
        self.run_number = progress.state.run
        self._generation = generation
        self._spec = workflow.spec
        self._graph = progress.graph
        self._state = progress.state
        self._adopted = adopted
        self._ports = ports
        now = ports.clock.now()
        self._agenda = Agenda(
            sweep=now if adopted else now + ports.pace.sweep(FIRST_INTERVAL),
            swept=now,
            status=now + ports.pace.status(FIRST_WRITE_AFTER),
            checkpoint=now + ports.pace.checkpoint(FIRST_CHECKPOINT_AFTER),
            servers=now,
            progress=now,
        )
        self._wake = asyncio.Event()
        self._inbox: list[Outcome] = []
        self._values: dict[str, Any] = {}
        self._unreadable: dict[str, str] = {}
        self._outbox = Outbox(
            ports.broker, progress.unsent, clock=ports.clock, metrics=ports.metrics, reached=ports.reached
        )
        self._rounds = Rounds(
            uid=uid,
            graph=progress.graph,
            broker=ports.broker,
            listener=ports.listener,
            lost_after=ports.lost_after,
            guards=ports.guards,
        )
        self._reachable = {"broker": Reachability.unknown(), "backend": Reachability.unknown()}
        self._unrevoked: list[str] = []
        """What is given up and whose workers could not be told."""
        self._revoke_at = now
        self._stall: Stall | None = None
        self._checkpoint: Checkpoint | None = None
        self._writing: asyncio.Task[None] | None = None
        self._news = True

    # ------------------------------------------------------------------------------------ notes from others

    def hear(self, outcomes: list[Outcome]) -> None:
        """Take note of what happened to tasks of this run."""
        self._inbox.extend(outcomes)
        now, agenda = self._ports.clock.now(), self._agenda
        agenda.progress = now
        agenda.sweep_interval = FIRST_INTERVAL
        soon = self._ports.pace.sweep(FIRST_INTERVAL)
        agenda.sweep = after_progress(agenda.sweep, swept=agenda.swept, now=now, soon=soon)
        self._wake.set()

    def look_again(self) -> None:
        """Sweep at once: announcements may have been missed."""
        self._agenda.sweep = self._ports.clock.now()
        self._wake.set()

    def spec_changed(self, workflow: CeleryWorkflow, generation: int) -> None:
        """Take note of a changed spec; of it only ``suspend`` can differ."""
        self._spec = workflow.spec
        self._generation = generation
        self._agenda.status = self._ports.clock.now()
        self._news = True
        self._wake.set()

    # ------------------------------------------------------------------------------------------- its own life

    async def drive(self) -> None:
        """Run to the end and report it.

        Raises:
            Gone: If the workflow is deleted meanwhile.
            ServersMoved: If ``progress`` is to go on with other servers.
        """
        pace = self._ports.pace
        pace.enter()
        self._ports.listener.add(self.uid, self)
        try:
            finish = await self._advance_to_the_end()
            await self._conclude(finish)
        finally:
            pace.leave()
            self._ports.listener.remove(self.uid)
            if self._writing is not None:
                self._writing.cancel()

    @property
    def progress(self) -> Progress:
        """How far this run is: from there another can go on."""
        return Progress(self._graph, self._state, self._outbox.unsent)

    async def revoke_all(self) -> None:
        """Ask the workers to forget what they have not begun: the workflow was deleted. Best effort."""
        tasks = outstanding(self._graph, self._state, uid=self.uid, limit=REVOKE_LIMIT)
        ids = [task.task_id for task in tasks]
        if ids:
            with contextlib.suppress(BrokerError):
                await self._ports.broker.revoke(ids)

    async def _advance_to_the_end(self) -> Finish:
        while True:
            plan = self._plan()
            await self._carry_out(plan)
            if plan.finished is not None:
                return plan.finished
            now = self._ports.clock.now()
            if now >= self._agenda.sweep:
                await self._sweep(now)
            if now >= self._agenda.checkpoint:
                await self._write_checkpoint(now)
            self._show(now)
            await self._follow_servers(now)
            if plan.more or self._inbox or self._values or self._unreadable:
                await asyncio.sleep(0)  # other runs have their turn
            else:
                await self._wait(plan.wake_at)

    def _plan(self) -> Plan:
        self._wake.clear()
        observed = Observed(tuple(self._inbox), self._values, self._unreadable)
        self._inbox, self._values, self._unreadable = [], {}, {}
        plan = advance(
            self._graph,
            self._state,
            observed,
            now=self._ports.clock.now(),
            uid=self.uid,
            suspended=self._spec.suspend,
            policy=self._spec.run_policy,
        )
        self._news = self._news or plan.state is not self._state
        self._state = plan.state
        return plan

    async def _carry_out(self, plan: Plan) -> None:
        self._outbox.keep(self._wants)
        if plan.publish or (self._outbox and not self._spec.suspend):
            await self._publish(plan.publish)
        if plan.fetch:
            await self._fetch(plan.fetch)
        self._unrevoked += plan.revoke
        if self._unrevoked and self._ports.clock.now() >= self._revoke_at:
            await self._revoke()

    def _wants(self, message: TaskMessage) -> bool:
        """Whether a message that has not been sent yet is still to be sent."""
        identity = message.identity
        step = self._state.steps[identity.step]
        return (
            step.items is not None
            and step.items[identity.index] in (Code.PUBLISHED, Code.RUNNING)
            and step.attempt(identity.index) == identity.attempt
        )

    async def _revoke(self) -> None:
        """Ask the workers to forget what is given up; what they run anyway changes nothing any more."""
        try:
            while self._unrevoked:
                await self._ports.broker.revoke(self._unrevoked[:REVOKE_LIMIT])
                del self._unrevoked[:REVOKE_LIMIT]
        except BrokerError:
            self._revoke_at = self._ports.clock.now() + FIRST_INTERVAL

    async def _wait(self, wake_at: datetime | None) -> None:
        agenda = self._agenda
        due = [agenda.sweep, agenda.checkpoint, wake_at]
        if not self._spec.suspend:
            due.append(self._outbox.due)
        if self._unrevoked:
            due.append(self._revoke_at)
        if self._news and (self._writing is None or self._writing.done()):
            due.append(agenda.status)
        delay = (min(moment for moment in due if moment is not None) - self._ports.clock.now()).total_seconds()
        if delay > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    # ------------------------------------------------------------------------------------------------ publish

    async def _publish(self, messages: Sequence[TaskMessage]) -> None:
        if self._adopted and messages:
            messages = await self._not_begun(messages)
        if len(messages) > SHOWN_FIRST and self._ports.writer.written is None:
            now = self._agenda.status = self._ports.clock.now()
            self._show(now)
        broker = await self._outbox.send(messages)
        if broker is not None and broker != self._reachable["broker"]:
            self._reachable["broker"], self._news = broker, True

    async def _not_begun(self, messages: Sequence[TaskMessage]) -> list[TaskMessage]:
        """Return those messages that no worker has begun; what became of the others is noted.

        An earlier process may have published them. Those that wait in the queue are published twice: harmless, since
        workers run an attempt once.
        """
        tasks = [self._as_outstanding(message) for message in messages]
        try:
            listener = self._ports.listener
            swept = await sweep(listener.backend, tasks, now=self._ports.clock.now(), settled=listener.settled)
        except ResultBackendError as error:
            self._lost_backend(error)
            return list(messages)
        self._inbox.extend(swept.outcomes)
        found = {task.task_id: task.resumption for task in swept.never_begun}
        return [each.resumed(found[each.identity.task_id]) for each in messages if each.identity.task_id in found]

    def _call_of(self, step: str, index: int) -> Call:
        return self._graph.by_name[step].call_of(index, len(self._state.steps[step].items or b""))

    def _as_outstanding(self, message: TaskMessage) -> Outstanding:
        identity = message.identity
        return Outstanding(
            step=identity.step,
            index=identity.index,
            attempt=identity.attempt,
            task_id=identity.task_id,
            running=False,
            lost_after=self._call_of(identity.step, identity.index).lost_after or self._ports.lost_after,
        )

    async def _fetch(self, wanted: Sequence[Fetch]) -> None:
        try:
            found = fetched(wanted, await self._ports.listener.backend.read(task_ids(wanted)))
        except ResultBackendError as error:
            self._lost_backend(error)
            self._stall, self._news = Stall.store(error), True
            if not self._overdue():
                await self._pause()
                return
            found = overdue(wanted, error)
        else:
            if not self._reachable["backend"].reachable:
                self._stall, self._news = None, True
            self._reachable["backend"] = Reachability.up()
        self._values |= found.values
        self._unreadable |= found.unreadable

    def _overdue(self) -> bool:
        seconds = self._spec.run_policy.active_deadline_seconds
        return seconds is not None and self._ports.clock.now() >= self._state.started + timedelta(seconds=seconds)

    def _lost_backend(self, error: ResultBackendError) -> None:
        self._ports.listener.failed()
        self._reachable["backend"] = Reachability.down(error)

    async def _pause(self) -> None:
        """Wait for news or a second, whichever is first, before a server that failed is asked again."""
        self._show(self._ports.clock.now())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_INTERVAL.total_seconds()):
                await self._wake.wait()

    async def _follow_servers(self, now: datetime) -> None:
        """Leave servers that do not answer if the application names others. While they answer, what runs is theirs."""
        if all(each.reachable is not False for each in self._reachable.values()):
            self._agenda.servers = now + ASK_AGAIN_AFTER
        elif now >= self._agenda.servers:
            self._agenda.servers = now + ASK_AGAIN_AFTER
            if await self._ports.moved():
                raise ServersMoved(f"workflow {self.key} goes on with the servers that its application names now")

    # -------------------------------------------------------------------------------------------------- sweep

    async def _sweep(self, now: datetime) -> None:
        self._news = True
        agenda = self._agenda
        if self._rounds.begins:
            agenda.swept = now
        found = await self._rounds.look(self._state, now=now, quiet=now - agenda.progress >= STALLED_AFTER)
        self._reachable["backend"] = found.backend
        self._reachable["broker"] = found.broker or self._reachable["broker"]
        self._stall = found.stall
        if not found.backend.reachable:
            agenda.sweep = now + FIRST_INTERVAL
            return
        self._inbox.extend(found.outcomes)
        if found.gone:
            log.info("publishing again what nobody has", workflow=str(self.key), tasks=len(found.gone))
            self._state = publish_again(self._graph, self._state, found.gone, uid=self.uid)
            self._wake.set()
        agenda.sweep_interval = next_interval(agenda.sweep_interval)
        agenda.sweep = now + (timedelta(0) if found.more else self._ports.pace.sweep(agenda.sweep_interval))

    # --------------------------------------------------------------------------------------------------- show

    def _report(self, finish: Finish | None = None) -> WorkflowStatus:
        return report(
            spec=self._spec,
            graph=self._graph,
            state=self._state,
            finish=finish,
            previous=self._ports.writer.written,
            generation=self._generation,
            now=self._ports.clock.now(),
            uid=self.uid,
            broker=self._reachable["broker"],
            backend=self._reachable["backend"],
            stall=self._stall,
            checkpoint=None if finish else self._checkpoint,
        )

    def _show(self, now: datetime) -> None:
        """Write the status in the background if it is due and has changed: the run does not wait for it."""
        if self._writing is not None and self._writing.done():
            self._writing.result()  # Gone ends the run
            self._writing = None
        if not self._news or now < self._agenda.status or self._writing is not None:
            return
        self._news = False
        self._agenda.status = now + self._ports.pace.status(WRITE_INTERVAL)
        self._writing = asyncio.create_task(self._write(self._report()), name=f"status {self.key}")
        self._writing.add_done_callback(lambda _: self._wake.set())  # what became news meanwhile may be due

    async def _write(self, status: WorkflowStatus) -> None:
        try:
            await self._ports.writer.write(status)
        except Gone:
            raise
        except ClusterError as error:
            self._news = True
            log.warning("status postponed", workflow=str(self.key), why=error.message)

    async def _write_checkpoint(self, now: datetime) -> None:
        self._agenda.checkpoint = now + self._ports.pace.checkpoint(CHECKPOINT_INTERVAL)
        self._ports.reached(Failpoint.BEFORE_CHECKPOINT)
        manifest = checkpoint_manifest(self.key, self.uid, self._graph, self._state)
        try:
            await self._ports.cluster.apply(manifest)
        except ClusterError as error:
            log.warning("checkpoint postponed", workflow=str(self.key), why=error.message)
            return
        if self._checkpoint is None:  # a time that moved on would be a status write of its own
            self._checkpoint = Checkpoint(name=checkpoint_key(self.key).name, time=rfc3339(now))
        self._ports.reached(Failpoint.AFTER_CHECKPOINT)

    async def _conclude(self, finish: Finish) -> None:
        self._ports.reached(Failpoint.BEFORE_FINAL_STATUS)
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        status = self._report(finish)
        retry = FIRST_INTERVAL
        while True:
            try:
                await self._ports.writer.write(status)
                break
            except Gone:
                raise
            except DependencyError as error:
                log.warning("the end is not written yet", workflow=str(self.key), why=error.message)
                await asyncio.sleep(retry.total_seconds())
                retry = next_interval(retry)
        if finish.succeeded and self._ports.pace.calm:
            await self._ports.writer.record("Normal", finish.reason, finish.message)
        if self._checkpoint is not None:
            with contextlib.suppress(ClusterError):
                await self._ports.cluster.delete("ConfigMap", checkpoint_key(self.key))
