"""The composition root: settings, adapters, services, then kopf. Nothing else happens here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from celery_operator import __version__
from celery_operator.adapters.agents import AiohttpWorkerAgents
from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.adapters.failpoints import acting_at
from celery_operator.adapters.garbage import calm_garbage_collector, give_back_when_quiet
from celery_operator.adapters.health_server import HealthServer
from celery_operator.adapters.kubernetes.cluster import KubernetesCluster
from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.kubernetes.served import ServedKinds
from celery_operator.adapters.lease import LeaderElection, LeadershipLost, LeaseTimes
from celery_operator.adapters.logging import configure_logging
from celery_operator.adapters.metrics import PrometheusMetrics, watch_loop
from celery_operator.adapters.watchdog import EXIT_LEASE_LOST
from celery_operator.domain.errors import CeleryOperatorError
from celery_operator.domain.services import qualify_host
from celery_operator.handlers.registry import KINDS
from celery_operator.handlers.runner import watch
from celery_operator.services.apps import AppReconciler, AppResolver
from celery_operator.services.control import Controller
from celery_operator.services.fence import FencedCluster
from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.pools import PoolReconciler
from celery_operator.services.ports import ObjectKey
from celery_operator.services.workflows.engine import WorkflowEngine
from celery_operator.settings import Settings, SettingsError, read_settings

log = structlog.get_logger(__name__)

EXIT_SETTINGS = 78
"""EX_CONFIG: a setting is wrong; starting again will not help."""
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE: Kubernetes cannot be reached or refuses the login."""


async def operate(settings: Settings) -> None:
    """Wait until this process leads, then run the operator until it is told to stop or loses its lease."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock, metrics = SystemClock(), PrometheusMetrics(CollectorRegistry())
    async with contextlib.AsyncExitStack() as stack:
        api = await ApiConnection.open(settings.kubeconfig)
        stack.push_async_callback(api.close)
        identity = f"{settings.identity}_{uuid.uuid4().hex[:8]}"
        election = LeaderElection(
            api,
            ObjectKey(settings.lease_namespace, settings.lease_name),
            identity,
            clock=clock,
            times=LeaseTimes.of_duration(settings.lease_duration_seconds),
        )
        kinds = ServedKinds(api, KINDS)
        health = HealthServer(ready=lambda: kinds.trouble, registry=metrics.registry, port=settings.http_port)
        await health.start()
        stack.push_async_callback(health.stop)
        lag = asyncio.create_task(watch_loop(metrics, clock), name="watch the event loop")
        stack.callback(lag.cancel)
        log.info("started", version=__version__, identity=identity, namespaces=settings.watch_namespaces or "all")
        stack.push_async_callback(election.release)  # also if the lease comes in the moment of the end
        for waiting in (kinds.wait(), election.acquire()):
            await first_of(asyncio.ensure_future(waiting), asyncio.create_task(stop.wait(), name="wait for the end"))
            if stop.is_set():
                return
        await lead(settings, election, api=api, clock=clock, metrics=metrics, stop=stop, stack=stack)


async def lead(
    settings: Settings,
    election: LeaderElection,
    *,
    api: ApiConnection,
    clock: SystemClock,
    metrics: PrometheusMetrics,
    stop: asyncio.Event,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Compose the services and feed them what kopf watches, until told to stop. Raises LeadershipLost."""
    plain = KubernetesCluster(api, clock=clock, instance=settings.identity)
    stack.push_async_callback(plain.close)
    cluster = FencedCluster(plain, lambda: election.leads)
    connections, agents, apps = (
        CeleryConnections(clock),
        AiohttpWorkerAgents(),
        AppResolver(cluster, qualify=qualify_host),
    )
    stack.push_async_callback(connections.close_all)
    stack.push_async_callback(agents.close)
    guarded = GuardedQueues()
    workflows = WorkflowEngine(
        cluster=cluster,
        connections=connections,
        apps=apps,
        clock=clock,
        reached=acting_at(settings.failpoint, settings.failpoint_hits, settings.failpoint_action),
        metrics=metrics,
        guarded=guarded,
    )
    stack.push_async_callback(workflows.close)
    pools = PoolReconciler(
        cluster=cluster,
        connections=connections,
        agents=agents,
        apps=apps,
        clock=clock,
        worker_image=settings.worker_image,
        metrics=metrics,
        guarded=guarded,
    )
    app_status = AppReconciler(cluster=cluster, connections=connections, apps=apps, clock=clock)
    controller = Controller(
        reconcilers={"CeleryApp": app_status, "CeleryWorkerPool": pools}, workflows=workflows, metrics=metrics
    )
    stack.push_async_callback(controller.close)
    metrics.leads(leads=True)
    metrics.watch_workflows(lambda: workflows.active)
    tidying = asyncio.create_task(give_back_when_quiet(lambda: workflows.active), name="give memory back")
    stack.callback(tidying.cancel)
    watching = asyncio.create_task(
        watch(
            lambda kind, manifest, deleted: controller.observe(kind, manifest, deleted=deleted),
            namespaces=settings.watch_namespaces,
            kubeconfig=settings.kubeconfig,
            identity=settings.identity,
            stop=stop,
        ),
        name="watch",
    )
    holding = asyncio.create_task(election.hold(), name="hold the lease")
    await first_of(watching, holding)


async def first_of(*tasks: asyncio.Task[Any]) -> None:
    """Wait until the first task ends; cancel the others, and raise what the first raised."""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def main() -> int:
    """Run the operator; return the process's exit status."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(f"celery-operator: {error}", file=sys.stderr)  # noqa: T201 - logging is not configured yet
        return EXIT_SETTINGS
    configure_logging(settings.log_level.upper(), output=settings.log_format)
    calm_garbage_collector()
    try:
        asyncio.run(operate(settings))
    except LeadershipLost as error:
        log.warning("ending: another process leads", why=str(error))
        return EXIT_LEASE_LOST
    except CeleryOperatorError as error:
        log.error("ending", why=str(error))  # noqa: TRY400 - the sentence says it all
        return EXIT_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
