"""Where an application's dead letters are: streams in its store, or queues of its broker."""

from __future__ import annotations

from typing import Any

from celery_patterns.resilience.letter_queues import LetterQueues
from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.store import StoreNotConfigured
from celery_patterns.store.settings import store_url
from celery_patterns.tasks.patterns import patterns_of


def letters_of(app: Any, settings: ResilienceSettings | None = None) -> LetterStreams | LetterQueues:
    """Return the application's dead letters; ``settings`` None: the application's.

    Raises:
        ValueError: If a setting is not of its form.
        StoreNotConfigured: If they are to be in the store and there is none, or nowhere: the broker is no RabbitMQ.
    """
    settings = settings or ResilienceSettings.of_app(app)
    store = patterns_of(app).store
    if settings.place != "broker":
        try:
            store_url(store.settings, app.conf)
        except StoreNotConfigured:
            if settings.place == "store" or not is_amqp(app):
                raise
        else:
            return LetterStreams(store, longest=settings.longest, retention_seconds=settings.retention_seconds)
    if not is_amqp(app):
        raise StoreNotConfigured(
            "dead letters on the broker need RabbitMQ: set CELERY_PATTERNS_DEAD_LETTERS_ON to store or auto"
        )
    return LetterQueues(app, longest=settings.longest, retention_seconds=settings.retention_seconds)


def is_amqp(app: Any) -> bool:
    """Whether the application's broker is RabbitMQ."""
    return str(app.connection_for_write().transport.driver_type) == "amqp"
