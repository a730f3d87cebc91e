"""Where dead letters and the poison guard join a worker: ``install()`` once, before ``worker_init`` is sent."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps, signals

from celery_patterns.resilience import wire
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.resilience.undertaker import Undertaker
from celery_patterns.store import StoreNotConfigured

logger = logging.getLogger(__name__)


class UndertakerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Watches requests from before the consumer makes its strategies."""

    def start(self, worker: Any) -> None:
        """Watch."""
        worker.celery_patterns_undertaker.start()

    def stop(self, worker: Any) -> None:
        """Keep what waits."""
        worker.celery_patterns_undertaker.stop()

    def terminate(self, worker: Any) -> None:
        """Keep what waits, at a cold shutdown."""
        worker.celery_patterns_undertaker.stop()


class UndertakerConsumerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs at every connection to the broker, before the loop makes its task handler."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Put the hooks in."""
        consumer.controller.celery_patterns_undertaker.consuming(consumer)


def join_worker(sender: Any, **_: Any) -> None:
    """Add the steps to the worker that is about to build its own."""
    try:
        sender.celery_patterns_undertaker = Undertaker(sender, ResilienceSettings.of(sender.app.conf))
    except StoreNotConfigured as error:
        logger.warning("no dead letters are kept: %s", error)
        return
    except ValueError as error:
        # Celery logs what a receiver raises and goes on, and nobody would know that nothing is kept.
        raise SystemExit(f"a setting of celery-patterns is wrong: {error}") from None
    sender.app.steps["worker"].add(UndertakerStep)
    sender.app.steps["consumer"].add(UndertakerConsumerStep)
    if sender.app.connection_for_read().transport.driver_type == "redis":
        wire.install()


def install() -> None:
    """Join every worker that this process starts."""
    signals.worker_init.connect(join_worker, weak=False, dispatch_uid="celery_patterns.resilience")
