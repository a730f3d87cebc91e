"""Handles of results outlive the servers that a benchmark starts and ends."""

from __future__ import annotations

from celery import Celery


def let_go(app: Celery) -> None:
    """Close an application; the handles of its results that are still about will not unsubscribe when they go.

    Each would otherwise look for a Redis that has ended, for twenty seconds.
    """
    app.backend.result_consumer.subscribed_to.clear()
    app.close()
