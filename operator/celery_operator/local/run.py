"""A run on this machine: the operator's services over a local cluster, until the workflows have ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from celery_operator.adapters.agents import AiohttpWorkerAgents
from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.api.conditions import ConditionType
from celery_operator.local.cluster import CLOSE_SECONDS, LocalCluster
from celery_operator.local.connections import MappedConnections
from celery_operator.local.container import data_of
from celery_operator.local.gauges import PoolGauges, pods_of_pool
from celery_operator.local.hosts import HostMap
from celery_operator.local.manifests import OUR_KINDS, PLAIN_KINDS, Document
from celery_operator.local.objects import key_of
from celery_operator.local.outcome import Outcome, condition, outcome_of, stalled_for
from celery_operator.local.redis import embedded_redis
from celery_operator.services.apps import AppReconciler, AppResolver
from celery_operator.services.control import Controller, Reconciler
from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.pools import PoolReconciler
from celery_operator.services.ports import Manifest, ObjectKey
from celery_operator.services.workflows.engine import WorkflowEngine

ORDER: Final = (*PLAIN_KINDS, *OUR_KINDS)
"""What others refer to comes first, so that nothing is refused for what the next document brings."""
LOOK_SECONDS: Final = 0.5
"""How often it is looked whether a run has stalled, or a pool has become idle; ends of workflows are pushed."""
PART_CLOSE_SECONDS: Final = 5.0
STARTS_IN_VAIN: Final = 3
"""A worker that has ended this often in a row will not run the next time either: its application cannot be imported."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run."""

    map_hosts: Mapping[str, str] = field(default_factory=dict)
    """Name of a Service -> ``host:port`` on this machine."""
    directory: Path | None = None
    """Where logs are kept; None: a temporary folder, which stays only if something failed."""
    working_directory: Path | None = None
    """Where workers run, so that they can import the application; None: the current folder."""
    give_up_after: timedelta | None = timedelta(seconds=60)
    """How long a workflow may be stalled; None: for ever."""


class GivenUpError(Exception):
    """The workflows cannot end: the message says why."""


class LocalRun:
    """What happens on this machine now. Made by ``local_run``."""

    def __init__(
        self, cluster: LocalCluster, controller: Controller, gauges: PoolGauges, directory: Path, options: Options
    ) -> None:
        self.cluster = cluster
        self.gauges = gauges
        self.directory = directory
        self._controller = controller
        self.options = options
        self._changed = asyncio.Event()
        self._order: list[ObjectKey] = []
        cluster.watch(self._observe)

    def start(self, documents: Sequence[Document]) -> None:
        """Create all resources; the operator takes them up at once."""
        self._order = [key_of(document.manifest) for document in documents]
        for document in sorted(documents, key=lambda each: ORDER.index(each.manifest["kind"])):
            self.cluster.store.create(document.manifest)

    def workflows(self) -> tuple[Manifest, ...]:
        """Return all workflows as they are now, in the order of the files."""
        return self._in_order("CeleryWorkflow")

    def pools(self) -> tuple[Manifest, ...]:
        """Return all pools as they are now, in the order of the files."""
        return self._in_order("CeleryWorkerPool")

    async def finished(self) -> tuple[Outcome, ...]:
        """Wait until all workflows have ended; return how. Raises GivenUpError if they cannot."""
        while True:
            self._changed.clear()
            outcomes = [outcome_of(workflow) for workflow in self.workflows()]
            ended = tuple(outcome for outcome in outcomes if outcome is not None)
            if len(ended) == len(outcomes):
                return ended
            self._look_for_trouble()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def idle(self) -> None:
        """Wait until every pool is as small as it may be when nothing is left to do."""
        while not all(self._is_smallest(pool) for pool in self.pools()):
            self.gauges.looked.clear()
            await self.gauges.looked.wait()

    def logs(self) -> list[Path]:
        """Return the files with the workers' output, the latest written to last."""
        files = [file for file in (self.directory / "logs").glob("*.log") if file.is_file()]
        return sorted(files, key=lambda file: file.stat().st_mtime)

    def _in_order(self, kind: str) -> tuple[Manifest, ...]:
        return tuple(sorted(self.cluster.store.list(kind), key=lambda each: self._order.index(key_of(each))))

    def _is_smallest(self, pool: Manifest) -> bool:
        scaling = pool["spec"].get("autoscaling")
        if scaling is None:
            return True
        history = self.gauges.history.get(key_of(pool), [])
        return bool(history) and max(history[-1].ready, history[-1].desired) <= int(scaling.get("minReplicas", 0))

    def _look_for_trouble(self) -> None:
        """Raise GivenUpError if an application or pool is refused, or a workflow has been stalled for too long."""
        for manifest in (*self._in_order("CeleryApp"), *self.pools()):
            accepted = condition(manifest, ConditionType.ACCEPTED)
            if accepted.get("status") == "False":
                raise GivenUpError(_refusal(manifest, accepted))
        limit, now = self.options.give_up_after, SystemClock().now()
        if limit is None:
            return
        self._look_at_workers()
        for workflow in self.workflows():
            since = stalled_for(workflow, now)
            if since is not None and since >= limit and outcome_of(workflow) is None:
                stalled = condition(workflow, ConditionType.STALLED)
                seconds = f"no progress for {since.total_seconds():.0f} s"
                raise GivenUpError(f"{_refusal(workflow, stalled)} ({seconds})")

    def _look_at_workers(self) -> None:
        """Raise GivenUpError if all workers of a pool end as soon as they have begun."""
        for pool in self.pools():
            pods = pods_of_pool(self.cluster.store, key_of(pool))
            endings = [_ending(pod) for pod in pods]
            if endings and all(ending is not None for ending in endings):
                name = pool["metadata"]["name"]
                raise GivenUpError(f"CeleryWorkerPool {name}: its workers end as soon as they start: {endings[0]}")

    def _observe(self, kind: str, event: str, manifest: Manifest) -> None:
        if kind in OUR_KINDS:
            self._controller.observe(kind, manifest, deleted=event == "DELETED")
            self._changed.set()


def _ending(pod: Manifest) -> str | None:
    """Return how a worker that was started in vain ended; None for any other."""
    for container in pod["status"].get("containerStatuses", ()):
        waiting = container["state"].get("waiting")
        if waiting and not container["started"] and container["restartCount"] >= STARTS_IN_VAIN:
            return str(waiting["message"])
    return None


def _refusal(manifest: Manifest, said: Mapping[str, str]) -> str:
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    return f"{name}: {said.get('reason', '')}: {said.get('message', '')}".rstrip(": ")


@asynccontextmanager
async def local_run(
    documents: Sequence[Document], options: Options, say: Callable[[str], None]
) -> AsyncIterator[LocalRun]:
    """Start a Redis if the documents want one, and the operator; at the end of the block nothing of it runs any more.

    ``say`` is told what takes time before anything can be seen. Raises NoRedisError.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(_run_directory(options.directory))
        stack.enter_context(_logging_to(directory / "operator.log"))
        hosts = HostMap(named=options.map_hosts)
        if any(hosts.wants_embedded(text) for document in documents for text in _texts(document.manifest)):
            url = await stack.enter_async_context(embedded_redis(directory / "redis", say))
            hosts = HostMap(named=options.map_hosts, embedded=url)
        clock = SystemClock()
        plain_connections = CeleryConnections(clock)
        stack.push_async_callback(_closed, plain_connections.close_all, "connections")
        agents = AiohttpWorkerAgents()
        stack.push_async_callback(agents.close)
        connections = MappedConnections(plain_connections, hosts)
        cluster = LocalCluster(clock, directory, hosts, working_directory=options.working_directory)
        stack.push_async_callback(cluster.close, CLOSE_SECONDS)
        await cluster.__aenter__()
        apps = AppResolver(cluster)
        guarded = GuardedQueues()
        engine = WorkflowEngine(cluster=cluster, connections=connections, apps=apps, clock=clock, guarded=guarded)
        stack.push_async_callback(_closed, engine.close, "workflows")
        pools = PoolReconciler(
            cluster=cluster,
            connections=connections,
            agents=agents,
            apps=apps,
            clock=clock,
            worker_image="local",
            guarded=guarded,
        )
        app_reconciler = AppReconciler(cluster=cluster, connections=connections, apps=apps, clock=clock)
        reconcilers: dict[str, Reconciler] = {"CeleryApp": app_reconciler, "CeleryWorkerPool": pools}
        controller = Controller(reconcilers=reconcilers, workflows=engine)
        stack.push_async_callback(_closed, controller.close, "controller")
        gauges = PoolGauges(cluster.store, connections, agents, apps)
        await stack.enter_async_context(_in_background(gauges.run()))
        yield LocalRun(cluster, controller, gauges, directory, options)


@contextlib.contextmanager
def _run_directory(chosen: Path | None) -> Iterator[Path]:
    """Make the run's folder."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    yield Path(tempfile.mkdtemp(prefix="celery-operator-"))


def discard(run: LocalRun) -> None:
    """Remove the folder of a run that has ended, unless it was chosen by the user."""
    if run.options.directory is None:
        shutil.rmtree(run.directory, ignore_errors=True)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Let the operator's log go to a file: the terminal belongs to the display."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _closed(close: Callable[[], Awaitable[None]], what: str) -> None:
    """Close a part; one that takes too long does not keep the workers from being ended."""
    try:
        async with asyncio.timeout(PART_CLOSE_SECONDS):
            await close()
    except TimeoutError:
        log.warning("closing took too long", part=what, seconds=PART_CLOSE_SECONDS)


def _texts(manifest: Manifest) -> list[str]:
    """Return the URLs that a resource may bring: those of an application, and a Secret's values."""
    if manifest["kind"] == "Secret":
        plain = [str(value) for value in (manifest.get("stringData") or {}).values()]
        return plain + [value.decode(errors="replace") for value in data_of(manifest).values()]
    spec = manifest.get("spec") or {}
    app = spec if manifest["kind"] == "CeleryApp" else spec.get("app") or {}
    endpoints = (app.get("connection") or {}).values()
    return [str(endpoint.get("url") or "") for endpoint in endpoints if isinstance(endpoint, dict)]
