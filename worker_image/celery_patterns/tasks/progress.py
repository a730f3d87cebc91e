"""Progress, checkpoints and cancellation: what a task says about itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Admit, Call, Decision, Policy
from celery_patterns.tasks.state import ProgressReport, ask_to_stop, read_report


@dataclass(frozen=True, slots=True)
class Progress(Policy):
    """Gives a task state in the store: ``context.progress``, ``checkpoint``, ``restored`` and ``cancelled``.

    Every policy that uses the store gives the same; this one is for tasks that have none.
    """

    name: ClassVar[str] = "progress"
    order: ClassVar[int] = 15
    needs_store: ClassVar[bool] = True

    @override
    def store_down(self, call: Call, error: Exception) -> Decision:
        """The task runs; what it wants to say is an error then."""
        del call, error
        return Admit()


def read_progress(task_id: str, app: Any = None) -> ProgressReport | None:
    """Return how far a task is; None if it has reported nothing, or that is over for a day.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    return read_report(patterns_of(_app(app)).store, task_id)


def cancel(task_id: str, app: Any = None) -> None:
    """Ask a task to stop at its next ``context.heartbeat()`` or ``context.cancelled()``.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    ask_to_stop(patterns_of(_app(app)).store, task_id)


def _app(app: Any) -> Any:
    if app is not None:
        return app
    from celery import current_app  # noqa: PLC0415 - the application in use now, not at import

    return current_app._get_current_object()  # noqa: SLF001 - a proxy has no attributes of its own
