"""A task's request in the worker's main process: it names the execution and keeps its leases."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.exceptions import TimeLimitExceeded
from celery.worker.request import Request

from celery_patterns import protocol
from celery_patterns.tasks.child_process import kill_and_wait
from celery_patterns.tasks.headers import HEADER, TOKEN, Tries

logger = logging.getLogger(__name__)


class PatternRequest(Request):  # type: ignore[misc]
    """Celery's request, of a PatternTask."""

    _token = ""
    _child: int | None = None
    _came_again = False

    def __init_subclass__(cls, **kwargs: Any) -> None:  # type: ignore[explicit-override]
        # Celery makes a further subclass for each task and overrides on_success there without calling ours.
        super().__init_subclass__(**kwargs)
        inner = cls.__dict__.get("on_success")
        if inner is None:
            return

        def on_success(self: PatternRequest, failed__retval__runtime: tuple[Any, ...], **options: Any) -> Any:
            self._let_go()
            return inner(self, failed__retval__runtime, **options)

        cls.on_success = on_success  # type: ignore[method-assign]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._task.plan.needs_store:
            self._token = self._request_dict[TOKEN] = protocol.new_token()

    @property
    def token(self) -> str:
        """The execution's token; empty if no policy of the task needs the store."""
        return self._token

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task begins: keep its lease from here."""
        self._child = pid
        if self._token:
            self._task.patterns.renewer.hold(self.id, self._token, self._task.lease_seconds)
        super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: tuple[Any, ...], **kwargs: Any) -> Any:
        """The task ended by itself."""
        self._let_go()
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: FBT001
        """A time limit ran out; a hard one kills the process."""
        if soft:
            return super().on_timeout(soft, timeout)
        self._end_by_force()
        answer = super().on_timeout(soft, timeout)
        if not self._came_again:
            self._lost(TimeLimitExceeded(timeout))
        return answer

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002
        """The task raised, which it has settled itself, or its process is gone, which it has not."""
        if return_ok:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        if isinstance(error, TimeLimitExceeded):
            self._end_by_force()
        else:
            self._release()
        gone = isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
        if gone:
            self._count_as_attempts()
        answer = super().on_failure(exc_info, send_failed_event, return_ok)
        if gone and not self._came_again and not self._already_revoked and not self._already_cancelled:
            self._lost(error)
        return answer

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """The message goes back to its queue, or away."""
        self._came_again |= requeue
        super().reject(requeue=requeue)

    def _retry_worker_lost(self, *args: Any, **kwargs: Any) -> bool:
        self._came_again = bool(super()._retry_worker_lost(*args, **kwargs))
        return self._came_again

    def _count_as_attempts(self) -> None:
        """Show Celery, which compares with max_retries, a count without deferrals."""
        context = self._context
        tries = Tries.of({HEADER: context.get(HEADER)}, context.retries or 0)
        context.pattern_deferrals = tries.deferrals
        context.retries = tries.attempt - 1

    def _let_go(self) -> None:
        if self._token:
            self._task.patterns.renewer.let_go(self.id, self._token)

    def _release(self) -> None:
        if self._token:
            self._task.patterns.renewer.release(self.id, self._token)

    def _end_by_force(self) -> None:
        # A hard time limit: Celery kills the process only after it has told of that, and stored the failure.
        # Until it is gone, nobody else may have what it holds, nor its message.
        if kill_and_wait(self._child):
            self._release()
        else:
            self._let_go()
        if self._task.requeue_on_time_limit and not self.acknowledged:
            self.reject(requeue=True)

    def _lost(self, error: BaseException) -> None:
        for policy in self._task.plan.policies:
            try:
                policy.lost(self._task, self, error)
            except Exception:
                logger.exception("%s of %s[%s] failed itself", policy.name, self.name, self.id)
