"""How the patterns join a worker: ``install()`` in any process; a worker that begins there is joined, once.

Importing this is cheap, since publishers do it too: what only workers need is imported when one begins.
"""

from __future__ import annotations

from typing import Any

from celery import VERSION, current_app, signals

_joined: list[Any] = []
"""This process's worker; a forked child finds its parent's here, a spawned one nothing."""


def install() -> None:
    """Join every worker that this process begins; twice is once. Without effect before Celery 5.7."""
    if VERSION[:2] >= (5, 7):
        signals.worker_init.connect(join_worker, weak=False, dispatch_uid="celery_patterns.joining")
        signals.worker_process_init.connect(join_child, weak=False, dispatch_uid="celery_patterns.joining.child")


def join_worker(sender: Any, **_: Any) -> None:
    """Turn on what the application's features say, and keep its dead letters.

    Raises:
        SystemExit: If a setting is wrong, or cannot be followed. Celery would log any other exception and go on, and
            nobody would know that nothing is kept.
    """
    from celery_patterns.resilience import steps  # noqa: PLC0415 - see above
    from celery_patterns.tasks import features, late_retry  # noqa: PLC0415 - see above

    _joined[:] = [sender]
    # In the main process too, which retries the tasks of lost processes; forked ones inherit it.
    late_retry.install()
    try:
        features.join_worker(sender)
        steps.join_worker(sender)
    except (ValueError, ModuleNotFoundError) as error:
        raise SystemExit(f"a setting of celery-patterns is wrong: {error}") from None


def join_child(**_: Any) -> None:
    """A pool's process begins."""
    if not _joined:
        from celery_patterns.tasks import features, late_retry  # noqa: PLC0415 - see above

        late_retry.install()
        features.join_spawned_child(current_app._get_current_object())  # noqa: SLF001 - a proxy
