"""All workflows of this operator: accepts new ones, takes up those an earlier process left, drops those that ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydantic import ValidationError

from celery_operator.api.validation import InvalidResource, validate_hidden
from celery_operator.api.workflow import CeleryWorkflow, WorkflowStatus
from celery_operator.domain.errors import ClusterError, DependencyError, Gone, SpecError
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.domain.workflows.lost import default_lost_after
from celery_operator.domain.workflows.report import Stall, report, stalled
from celery_operator.domain.workflows.state import initial_state
from celery_operator.services.apps import AppResolver
from celery_operator.services.failpoints import Reached, never
from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.ports import (
    Clock,
    Cluster,
    Connections,
    Manifest,
    Metrics,
    NoMetrics,
    ObjectKey,
)
from celery_operator.services.spec_errors import spec_error
from celery_operator.services.workflows.checkpoint import read_checkpoint
from celery_operator.services.workflows.listeners import Listeners
from celery_operator.services.workflows.pace import Pace
from celery_operator.services.workflows.run import Ports, Progress, ServersMoved, WorkflowRun
from celery_operator.services.workflows.shared_apps import SharedApps
from celery_operator.services.workflows.status import KIND, StatusWriter, has_ended, is_final

log = structlog.get_logger(__name__)

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(seconds=10)
"""How often a workflow that names a missing Secret or app is looked at again: it heals when that appears."""


@dataclass(slots=True)
class _Known:
    """A workflow that has not ended."""

    manifest: Manifest
    uid: str
    generation: int
    task: asyncio.Task[None] | None = None
    run: WorkflowRun | None = None
    progress: Progress | None = None
    """How far a run was that left its servers: newer than any checkpoint."""


class WorkflowEngine:
    """The runs of all workflows. ``observe`` and ``forget`` return at once; each run is a task of its own."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        connections: Connections,
        apps: AppResolver,
        clock: Clock,
        reached: Reached = never,
        metrics: Metrics | None = None,
        guarded: GuardedQueues | None = None,
    ) -> None:
        self._metrics = metrics or NoMetrics()
        self._cluster = cluster
        self._connections = connections
        self._apps = SharedApps(apps, clock)
        self._pace = Pace()
        self._clock = clock
        self._reached = reached
        self._guarded = guarded or GuardedQueues()
        self._known: dict[ObjectKey, _Known] = {}
        self._ended: dict[ObjectKey, str] = {}
        """The uid of each workflow whose run is over. An event from before its end may come after it."""
        self._listeners = Listeners(clock)
        self._farewells: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """How many workflows have not ended."""
        return len(self._known)

    def observe(self, manifest: Manifest) -> None:
        """Take note of a workflow as it is now: new, changed, or ended."""
        metadata = manifest["metadata"]
        key = ObjectKey(metadata["namespace"], metadata["name"])
        uid, generation = str(metadata["uid"]), int(metadata.get("generation", 1))
        known = self._known.get(key)
        if known is not None and known.uid != uid:
            self.forget(key, known.uid)
            known = None
        if known is None:
            if not has_ended(manifest) and self._ended.get(key) != uid:
                self._begin(key, _Known(manifest, uid, generation))
        elif generation > known.generation:
            known.manifest, known.generation = manifest, generation
            self._spec_changed(known)

    def forget(self, key: ObjectKey, uid: str) -> None:
        """End the run of a workflow that was deleted; its waiting tasks are revoked.

        The end of an earlier one of its name may be reported after its begin: that changes nothing.
        """
        if self._ended.get(key) == uid:
            del self._ended[key]
        known = self._known.get(key)
        if known is None or known.uid != uid:
            return
        del self._known[key]
        if known.task is not None:
            known.task.cancel()
        self._say_farewell(key, known)

    def _say_farewell(self, key: ObjectKey, known: _Known) -> None:
        if known.run is not None:
            farewell = asyncio.create_task(known.run.revoke_all(), name=f"revoke {key}")
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

    async def close(self) -> None:
        """Stop following; nothing is revoked, and the next process goes on where this one was."""
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._farewells, return_exceptions=True)
        await self._listeners.close()
        self._known.clear()

    def _begin(self, key: ObjectKey, known: _Known) -> None:
        self._known[key] = known
        known.task = asyncio.create_task(self._live(key, known), name=f"CeleryWorkflow {key}")

    def _spec_changed(self, known: _Known) -> None:
        if known.run is None:
            return  # not accepted yet: looked at again from its newest manifest
        try:
            known.run.spec_changed(CeleryWorkflow.model_validate(_of_spec(known.manifest)), known.generation)
        except ValidationError as error:
            log.warning("changed spec is ignored", workflow=known.manifest["metadata"]["name"], why=str(error))

    async def _live(self, key: ObjectKey, known: _Known) -> None:
        writer = StatusWriter(self._cluster, key, known.uid, str(known.manifest["metadata"]["resourceVersion"]))
        retry = FIRST_RETRY
        while True:
            try:
                run = await self._accept(key, known, writer)
                if run is not None:
                    known.run = run
                    await run.drive()
                    break
                if writer.written is not None and is_final(writer.written.to_resource()):
                    break  # refused for what cannot change any more
            except Gone:  # deleted, and not reported yet; or the report was lost with a watch
                self._say_farewell(key, known)
                break
            except ServersMoved as moved:
                log.info("servers have changed", workflow=str(key), what=str(moved))
                known.progress = known.run.progress if known.run is not None else None
                retry = FIRST_RETRY
            except DependencyError as error:
                log.warning("workflow postponed", workflow=str(key), why=error.message)
            except Exception as error:
                log.exception("workflow stopped: this is a defect of the operator", workflow=str(key))
                await self._tell_defect(known, writer, error)
            known.run = None
            await asyncio.sleep(retry.total_seconds())
            retry = min(retry * 2, LONGEST_RETRY)
            await self._observe_again(key, known)
            if has_ended(known.manifest):
                break
        if self._known.get(key) is known:
            del self._known[key]
            self._ended[key] = known.uid

    async def _tell_defect(self, known: _Known, writer: StatusWriter, error: Exception) -> None:
        status = stalled(writer.written, Stall.defect(error), generation=known.generation, now=self._clock.now())
        with contextlib.suppress(ClusterError):  # then only the log says it, until the next try
            await writer.write(status)

    async def _observe_again(self, key: ObjectKey, known: _Known) -> None:
        """Look at what was written meanwhile, by ourselves above all: the next try goes on from there."""
        with contextlib.suppress(DependencyError):
            manifest = await self._cluster.get(KIND, key)
            if manifest is not None and str(manifest["metadata"]["uid"]) == known.uid:
                known.manifest = manifest
                known.generation = max(known.generation, int(manifest["metadata"].get("generation", 1)))

    async def _accept(self, key: ObjectKey, known: _Known, writer: StatusWriter) -> WorkflowRun | None:
        """Return the run of a workflow that can be run; else say in its status why not, and return None."""
        manifest = known.manifest
        previous = _status_of(manifest)
        writer.seen(manifest, previous)
        try:
            validate_hidden(manifest)
            workflow = CeleryWorkflow.model_validate(_of_spec(manifest))
            progress = known.progress or await self._left(key, known.uid, previous) or self._compile(workflow, previous)
            app = await self._apps.resolve(key.namespace, workflow.spec.app_ref, workflow.spec.app)
            broker = self._connections.broker(app.broker_url)
            backend = self._connections.result_backend(app.require_backend())
        except (SpecError, ValidationError, InvalidResource) as error:
            await self._refuse(known, writer, spec_error(error))
            return None
        return WorkflowRun(
            key=key,
            uid=known.uid,
            generation=known.generation,
            workflow=workflow,
            progress=progress,
            adopted=known.progress is not None or (previous is not None and previous.start_time is not None),
            ports=Ports(
                cluster=self._cluster,
                broker=broker,
                listener=self._listeners.of(backend),
                writer=writer,
                clock=self._clock,
                reached=self._reached,
                metrics=self._metrics,
                pace=self._pace,
                lost_after=default_lost_after(app),
                guards=functools.partial(self._guarded.serves, app.broker_url),
                moved=functools.partial(self._moved, key, workflow, app),
            ),
        )

    async def _left(self, key: ObjectKey, uid: str, previous: WorkflowStatus | None) -> Progress | None:
        """Return how far an earlier process noted that the run is, if it did."""
        if previous is None or not previous.checkpoint:
            return None
        found = await read_checkpoint(self._cluster, key, uid)
        return None if found is None else Progress(*found)

    async def _moved(self, key: ObjectKey, workflow: CeleryWorkflow, app: ResolvedApp) -> bool:
        """Whether the workflow's application names other servers than this, all of which can be talked to."""
        try:
            found = await self._apps.resolve(key.namespace, workflow.spec.app_ref, workflow.spec.app)
            self._connections.broker(found.broker_url)
            self._connections.result_backend(found.require_backend())
        except (SpecError, DependencyError):
            return False  # a run that has begun is not ended by that; what it had may answer again
        return (found.broker_url, found.backend_url) != (app.broker_url, app.backend_url)

    def _compile(self, workflow: CeleryWorkflow, previous: WorkflowStatus | None) -> Progress:
        graph = compile_workflow(workflow.spec)
        run = previous.run if previous else 1
        begun = previous.start_time if previous else None  # the deadline counts from the first process's start
        now = datetime.fromisoformat(begun) if begun else self._clock.now()
        return Progress(graph, initial_state(graph, run=run, now=now))

    async def _refuse(self, known: _Known, writer: StatusWriter, error: SpecError) -> None:
        status = report(
            spec=None,
            graph=None,
            state=None,
            refused=error,
            previous=writer.written,
            generation=known.generation,
            now=self._clock.now(),
            uid=known.uid,
        )
        await writer.write(status)


def _of_spec(manifest: Manifest) -> dict[str, object]:
    return {"spec": manifest.get("spec")}


def _status_of(manifest: Manifest) -> WorkflowStatus | None:
    """Return the status that was written; None if there is none, or one of a version this operator cannot read."""
    status = manifest.get("status")
    if not status:
        return None
    try:
        return WorkflowStatus.model_validate(status)
    except ValidationError:
        return None
