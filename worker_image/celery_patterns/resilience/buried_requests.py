"""Celery's Request, watched for its end in failure and for coming too often: what will not run again is kept.

Its acknowledgement is held back until the letter is kept. That happens at the lowest place, the callables with which a
request talks to the broker, so that every other class in between sees what it would see without us.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError, Terminated, TimeLimitExceeded
from celery.worker.state import task_ready

from celery_patterns.resilience import letters
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe, hash_traceback
from celery_patterns.tasks.errors import TaskRefused
from celery_patterns.tasks.headers import HEADER, Tries

if TYPE_CHECKING:
    from celery_patterns.resilience.undertaker import Undertaker

logger = logging.getLogger(__name__)


OF_LOSS = (WorkerLostError, SystemExit, KeyboardInterrupt)
"""What says that the process which ran a task is gone."""


class PoisonMessage(Exception):  # noqa: N818 - it says what the message is
    """A message was delivered too often without its task ever ending: it kills whatever runs it."""


class Gate:
    """Passes calls on, or holds them until it is opened."""

    def __init__(self) -> None:
        self._held: list[Callable[[], Any]] | None = None
        self._lock = threading.Lock()

    def around(self, function: Callable[..., Any], tell: Callable[[], Any] = lambda: None) -> Callable[..., Any]:
        """Return the function behind the gate; ``tell`` is called at once, when somebody knocks."""

        def gated(*args: Any, **kwargs: Any) -> Any:
            tell()
            with self._lock:
                if self._held is not None:
                    self._held.append(lambda: function(*args, **kwargs))
                    return None
            return function(*args, **kwargs)

        return gated

    def close(self) -> None:
        """Hold what comes."""
        with self._lock:
            self._held = self._held or []

    def open(self) -> None:
        """Do what was held, and hold no more."""
        with self._lock:
            held, self._held = self._held, None
        for call in held or ():
            call()


class BuriedRequest:
    """Mixed in before a task's own Request class; ``undertaker`` is set on the class made by ``watch``.

    Other classes mix in too (the agent's, a pattern task's): names here are long, so that none is anybody else's.
    """

    undertaker: Undertaker
    buried = False
    sent_again = False
    was_dispatched = False
    """It was given to the pool, and this delivery was counted."""
    died = False
    """Its process was lost, or killed by the time limit."""
    if TYPE_CHECKING:  # what Celery's Request has
        id: str
        task: Any
        store_errors: bool
        acknowledge: Callable[[], None]
        _context: Any
        _already_revoked: bool
        _already_cancelled: bool
        _request_dict: dict[str, Any]
        _message: Any
        _hostname: str
        _on_ack: Callable[..., Any]
        _on_reject: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:  # type: ignore[explicit-override]
        # Celery makes a further subclass for each task and overrides execute_using_pool there without calling ours.
        super().__init_subclass__(**kwargs)
        inner = cls.__dict__.get("execute_using_pool")
        if inner is None:
            return

        def execute_using_pool(self: BuriedRequest, pool: Any, **options: Any) -> Any:
            self.was_dispatched = True
            self._refuse_poison()
            return inner(self, pool, **options)

        cls.execute_using_pool = execute_using_pool  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._letter_gate = Gate()
        self._on_ack = self._letter_gate.around(self._on_ack, self._note_settled)
        self._on_reject = self._letter_gate.around(self._on_reject, self._note_settled)
        self.undertaker.hold(self)

    # ---- what Celery calls

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """The task raised, or its process is gone."""
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        self.died = isinstance(error, OF_LOSS)
        self._letter_gate.close()
        try:
            answer = super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._bury_if_final(error, str(getattr(exc_info, "traceback", "") or ""))
        return answer

    def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: FBT001 - Celery's signature
        """A time limit ran out; a hard one has killed the process."""
        if soft:
            return super().on_timeout(soft, timeout)  # type: ignore[misc]
        self.died = True
        self._letter_gate.close()
        try:
            answer = super().on_timeout(soft, timeout)  # type: ignore[misc]
        finally:
            self._bury_if_final(TimeLimitExceeded(timeout), "")
        return answer

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """The message goes back to its queue, or away."""
        if requeue and not self.sent_again:
            self.sent_again = True
            if not self.died:
                # What kills its process and goes back each time would otherwise do so for ever.
                self.undertaker.forget_delivery(self)
        super().reject(requeue=requeue)  # type: ignore[misc]

    def _retry_worker_lost(self, *args: Any, **kwargs: Any) -> bool:
        self.sent_again = bool(super()._retry_worker_lost(*args, **kwargs))  # type: ignore[misc]
        return self.sent_again

    def _success_was_stored(self) -> Any:
        stored = super()._success_was_stored()  # type: ignore[misc]
        self.buried = self.buried or bool(stored)
        return stored

    # ---- what we make of it

    @property
    def was_cancelled(self) -> bool:
        """Whether Celery itself has stopped it, so that its message goes back."""
        return self._already_cancelled

    def _note_settled(self) -> None:
        self.undertaker.settled(self)

    def _refuse_poison(self) -> None:
        """Bury the message instead of running it, if it came too often.

        Raises:
            TaskRevokedError: As Celery does for what must not run: its slot becomes free.
        """
        deliveries = self.undertaker.count_delivery(self)
        if deliveries is None:
            return
        error = PoisonMessage(
            f"delivered {deliveries} times without an end, which is more than {self.undertaker.settings.max_deliveries}"
        )
        self._letter_gate.close()
        try:
            task_ready(self)
            self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=self.store_errors)
        except Exception:
            logger.exception("the failure of %s cannot be stored", self)
        finally:
            self.acknowledge()
            self._bury_message(letters.POISON, error, "")
        raise TaskRevokedError(self.id)

    def _bury_if_final(self, error: BaseException, traceback: str) -> None:
        if self.buried or not self._will_not_run_again(error):
            self._letter_gate.open()
            return
        reason = letters.FAILED
        if isinstance(error, Reject):
            reason = letters.REJECTED
        elif isinstance(error, TimeLimitExceeded):
            reason = letters.TIMEOUT
        elif isinstance(error, OF_LOSS):
            reason = letters.WORKER_LOST
        elif isinstance(error, TaskRefused):
            reason = letters.REFUSED
        if self.undertaker.keeps_failures_of(self.task, reason):
            self._bury_message(reason, error, traceback)
        else:
            self._letter_gate.open()

    def _will_not_run_again(self, error: BaseException) -> bool:
        if self.sent_again or self._already_revoked or self._already_cancelled:
            return False
        if isinstance(error, Reject):
            return not error.requeue
        return not isinstance(error, (Ignore, Retry, Terminated))

    def _bury_message(self, reason: str, error: BaseException, traceback: str) -> None:
        self.buried = True
        try:
            letter = self._letter(reason, error, traceback)
        except Exception:
            # Held for ever, it would take a slot for ever; its failure is stored, and this says what it was.
            logger.exception("no dead letter can be made of %r", self._request_dict)
            self._letter_gate.open()
        else:
            self.undertaker.keeper.keep(letter, self._letter_gate.open)

    def _letter(self, reason: str, error: BaseException, traceback: str) -> Letter:
        text = describe(error)
        retries = int(self._request_dict.get("retries") or 0)
        return Letter(
            id="",
            queue=self.undertaker.queue_of(self._message),
            reason=reason,
            message=OriginalMessage.of(self._message),
            error=text,
            traceback=traceback,
            traceback_hash=hash_traceback(traceback, text),
            attempts=Tries.of({HEADER: self._request_dict.get(HEADER)}, retries).attempt,
            worker=str(self._hostname),
        )


def watch(base: type, undertaker: Undertaker) -> type:
    """Return a subclass of a Request class whose failures are kept."""
    if issubclass(base, BuriedRequest):
        return base
    return type(f"Buried{base.__name__}", (BuriedRequest, base), {"undertaker": undertaker, "__module__": __name__})
