"""Handles of results outlive the servers that a benchmark starts and ends."""

from __future__ import annotations

from celery import Celery


def let_go(app: Celery) -> None:
    """Close an application; the handles of its results that are still about will not unsubscribe when they go.

    Each would otherwise look for a Redis that has ended, for twenty seconds.
    """
    forget_subscriptions(app)
    app.close()


def forget_subscriptions(app: Celery) -> None:
    """Do so for results of this thread alone: each thread has a backend of its own."""
    app.backend.result_consumer.subscribed_to.clear()
