"""Celery's Request, followed from the main process: what begins, what ends and how.

Celery creates a further subclass of a task's Request for each task and overrides ``on_success`` there without calling
it (celery.worker.request.create_request_cls), so that one is wrapped as the subclass is made.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject

from celery_patterns import protocol
from celery_patterns.agent.announcer import Conclusion, RunningAttempt, announced
from celery_patterns.agent.carried import TOKEN_KEY, CarriedResult, DuplicateDropped, StoreUnavailable
from celery_patterns.agent.next_retry import NextRetry, note_of
from celery_patterns.agent.store import RELEASE

if TYPE_CHECKING:
    from celery_patterns.agent.worker_agent import WorkerAgent

FIRST_TIME = 1_000_000_000
"""September 2001: a message that was published before names no time of its publishing."""

DROPPED = "DROPPED"
"""Counted beside Celery's states: a duplicate of a workflow's task that did not run."""


class FollowedRequest:
    """Mixed in before a task's own Request class; ``agent`` is set on the class made by ``follow``."""

    agent: WorkerAgent
    published_at: float | None = None
    """Seconds since the epoch, where the message says so."""
    header: dict[str, Any] | None = None
    """The workflow header, of workflow tasks only."""
    token = ""
    ended = False
    requeued = False
    retried = False
    next_retry: NextRetry | None = None
    succeeded_before_loss = False

    def __init_subclass__(cls, **kwargs: Any) -> None:  # type: ignore[explicit-override]
        super().__init_subclass__(**kwargs)
        inner = cls.__dict__.get("on_success")
        if inner is None or cls.__module__ == __name__:
            return

        def on_success(self: FollowedRequest, failed__retval__runtime: tuple[Any, ...], **options: Any) -> Any:
            failed, result, runtime = failed__retval__runtime
            answer = inner(self, failed__retval__runtime, **options)
            if not failed:
                self._succeeded(result, runtime)
            return answer

        cls.on_success = on_success  # type: ignore[method-assign]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fields: dict[str, Any] = self._request_dict  # type: ignore[attr-defined]
        published_at = fields.get(protocol.PUBLISHED_AT_HEADER)
        if is_time(published_at):
            self.published_at = published_at
        header = fields.get(protocol.TASK_HEADER)
        if header is not None and protocol.TaskIdentity.from_header(header) is not None:
            self.header = header
            self.token = fields[TOKEN_KEY] = protocol.new_token()

    # ---- what Celery calls

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task begins."""
        if self.header is not None:
            self.agent.announcer.begun(RunningAttempt(self.header, self._id, self._key(), self.token, time.monotonic()))
        super().on_accepted(pid, time_accepted)  # type: ignore[misc]
        self.agent.task_started(str(self.name), self._queue(), self._delay())  # type: ignore[attr-defined]

    def on_success(self, failed__retval__runtime: tuple[Any, ...], **kwargs: Any) -> Any:
        """The task ended; for a Request class that Celery does not override."""
        failed, result, runtime = failed__retval__runtime
        answer = super().on_success(failed__retval__runtime, **kwargs)  # type: ignore[misc]
        if not failed:
            self._succeeded(result, runtime)
        return answer

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task raised, or its process was lost."""
        try:
            return super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._failed(_exception(exc_info))

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: FBT001 - Celery's signature
        """A time limit ran out."""
        answer = super().on_timeout(soft, timeout)  # type: ignore[misc]
        if not soft:
            self._end(
                *self._outcome(protocol.FAILURE),
                exception="TimeLimitExceeded",
                message=f"TimeLimitExceeded({timeout},)",
            )
        return answer

    def on_retry(self, exc_info: Any) -> Any:
        """Celery's own retry was published."""
        self.retried = True
        return super().on_retry(exc_info)  # type: ignore[misc]

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """The message goes back to its queue, or away."""
        if requeue and not self.acknowledged:  # type: ignore[attr-defined]
            self.requeued = True
        super().reject(requeue=requeue)  # type: ignore[misc]

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> None:
        super()._announce_revoked(*args, **kwargs)  # type: ignore[misc]
        reason = str(args[0] if args else kwargs.get("reason", ""))
        self._end(protocol.REVOKED, exception="TaskRevokedError", message=reason)

    def _retry_worker_lost(self, *args: Any, **kwargs: Any) -> bool:
        self.retried = bool(super()._retry_worker_lost(*args, **kwargs))  # type: ignore[misc]
        if self.retried and self.header is not None:
            self.next_retry = self._published_retry()
        return self.retried

    def _published_retry(self) -> NextRetry | None:
        """Return the retry that Celery has just published for a task whose process died."""
        task, context = self._task, self._context  # type: ignore[attr-defined]
        signature = task.signature_from_request(context, retries=context.retries + 1)
        seconds = task.default_retry_delay
        return NextRetry(float(seconds), note_of(signature.options, self._request_dict))  # type: ignore[attr-defined]

    def _success_was_stored(self) -> Any:
        stored = super()._success_was_stored()  # type: ignore[misc]
        self.succeeded_before_loss = bool(stored)
        return stored

    # ---- what we make of it

    @property
    def _id(self) -> str:
        return str(self.id)  # type: ignore[attr-defined]

    def _queue(self) -> str:
        """Return the routing key, which is the queue's name wherever Celery's own routes are in use."""
        return str((self.delivery_info or {}).get("routing_key") or "celery")  # type: ignore[attr-defined]

    def _delay(self) -> float | None:
        """Return how long after its publishing, or its eta, the task began; clocks differ, so never less than 0."""
        started: float | None = self.time_start  # type: ignore[attr-defined]
        if self.published_at is None or started is None:
            return None
        eta: Any = self.eta  # type: ignore[attr-defined]
        return max(0.0, started - max(self.published_at, eta.timestamp() if eta is not None else 0.0))

    def _key(self) -> str:
        retries = self._request_dict.get("retries") or 0  # type: ignore[attr-defined]
        return protocol.claim_key(self._id, retries, self.agent.key_prefix)

    def _succeeded(self, result: Any, runtime: float | None) -> None:
        encoded, size = (result.encoded, result.size) if isinstance(result, CarriedResult) else (None, -1)
        self._end(protocol.SUCCESS, encoded=encoded, size=size, runtime=runtime)

    def _failed(self, error: BaseException) -> None:
        cancelled = self._already_cancelled or self._already_revoked  # type: ignore[attr-defined]
        if isinstance(error, DuplicateDropped):
            self._end(None, claim=None, counted=DROPPED)
        elif isinstance(error, StoreUnavailable):
            self._end(None, claim=RELEASE, counted=protocol.REJECTED)
        elif self.succeeded_before_loss:
            self._end(protocol.SUCCESS, size=-1)
        elif self.retried or self.requeued:
            self._end(*self._outcome(protocol.RETRY), exception=_type_name(error), message=str(error))
        elif cancelled:
            self._end(protocol.RETRY, claim=RELEASE)
        elif isinstance(error, (Ignore, Reject)):
            self._end(protocol.REJECTED, exception=_type_name(error), message=str(error))
        else:
            self._end(protocol.FAILURE, exception=_type_name(error), message=_text(error))

    def _outcome(self, state: str) -> tuple[str, str]:
        """Return (state, claim) where the message may have gone back to its queue under the same id and retry count."""
        return (protocol.RETRY, RELEASE) if self.requeued else (state, protocol.CLAIM_DONE)

    def _end(
        self,
        state: str | None,
        claim: str | None = protocol.CLAIM_DONE,
        *,
        counted: str | None = None,
        encoded: str | None = None,
        size: int = 0,
        exception: str = "",
        message: str = "",
        runtime: float | None = None,
    ) -> None:
        """Count the end once, and announce it if the task is a workflow's."""
        if self.ended:
            return
        self.ended = True
        started: float | None = self.time_start  # type: ignore[attr-defined]
        if runtime is None and started is not None:
            runtime = max(0.0, time.time() - started)
        name, counted = str(self.name), counted or state or DROPPED  # type: ignore[attr-defined]
        self.agent.task_ended(name, counted, runtime, queue=self._queue(), exception=exception)
        if self.header is not None:
            self.agent.announcer.concluded(
                Conclusion(
                    header=self.header,
                    task_id=self._id,
                    key=self._key(),
                    token=self.token,
                    state=state,
                    claim=claim or RELEASE,
                    encoded=encoded,
                    size=size,
                    exception=exception,
                    message=announced(message) if message else "",
                    retry=self.next_retry,
                )
            )


def follow(base: type, agent: WorkerAgent) -> type:
    """Return a subclass of a Request class that reports to the agent."""
    if issubclass(base, FollowedRequest):
        return base
    return type(f"Followed{base.__name__}", (FollowedRequest, base), {"agent": agent, "__module__": __name__})


def _exception(exc_info: Any) -> BaseException:
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _type_name(error: BaseException) -> str:
    """Return the exception's type name; one that could not be pickled travels in a wrapper that knows it."""
    return str(getattr(error, "exc_cls_name", "") or type(error).__name__)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__
        return f"<{type(error).__name__} without a readable text>"


def is_time(value: Any) -> bool:
    """Whether a header's value is seconds since the epoch.

    Anybody may have written it, and one that is none would spoil the sums of the metrics for good.
    """
    return type(value) in (int, float) and math.isfinite(value) and value >= FIRST_TIME
