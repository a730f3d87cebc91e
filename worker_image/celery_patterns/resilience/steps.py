"""Where dead letters and the poison guard join a worker that begins; ``celery_patterns.tasks.joining`` says when."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps, signals

from celery_patterns.resilience import broker_memory, wire
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.resilience.undertaker import Undertaker
from celery_patterns.store import StoreNotConfigured
from celery_patterns.tasks.dead_letter import declares_letters

logger = logging.getLogger(__name__)


class UndertakerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Watches requests from before the consumer makes its strategies."""

    def start(self, worker: Any) -> None:
        """Watch."""
        worker.celery_patterns_undertaker.start()

    def stop(self, worker: Any) -> None:
        """Go on: the pool still runs, and what it runs may fail. ``end`` comes after it."""

    def terminate(self, worker: Any) -> None:
        """Keep what waits, at a cold shutdown."""
        worker.celery_patterns_undertaker.stop()


class UndertakerConsumerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs at every connection to the broker, before the loop makes its task handler."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Put the hooks in."""
        consumer.controller.celery_patterns_undertaker.consuming(consumer)


def end(sender: Any, **_: Any) -> None:
    """The worker has shut down warmly, its pool too: keep what waits."""
    undertaker: Undertaker | None = getattr(sender, "celery_patterns_undertaker", None)
    if undertaker is not None:
        undertaker.stop()


def join_worker(worker: Any) -> None:
    """Add the steps to the worker that is about to build its own.

    Raises:
        ValueError: If a setting is wrong, or letters are wanted and there is no place to keep them.
    """
    app = worker.app
    redis = app.connection_for_read().transport.driver_type == "redis"
    if redis:
        broker_memory.install()
    settings = ResilienceSettings.of_app(app)
    try:
        worker.celery_patterns_undertaker = Undertaker(worker, settings)
    except StoreNotConfigured as error:
        wanted = sorted(task.name for task in app.tasks.values() if declares_letters(task))
        if settings.failures == "all" or (wanted and settings.failures != "none"):
            who = "the setting patterns_dead_letters" if settings.failures == "all" else f"DeadLetter of {wanted[0]}"
            raise ValueError(f"{who} asks for dead letters, and there is no place for them: {error}") from None
        logger.warning("no dead letters are kept: %s", error)
        return
    if "prefork" in str(worker.pool_cls):
        worker.celery_patterns_undertaker.children.listen()
    signals.worker_shutdown.connect(end, weak=False, dispatch_uid="celery_patterns.resilience.end")
    app.steps["worker"].add(UndertakerStep)
    app.steps["consumer"].add(UndertakerConsumerStep)
    if redis:
        wire.install()
