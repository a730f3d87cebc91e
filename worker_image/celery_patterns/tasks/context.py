"""What a running task can know and say about itself: ``self.context``, or ``current_context()`` anywhere below it."""

from __future__ import annotations

import contextvars
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery_patterns.tasks.errors import Cancelled, DeadlineExceeded, LeaseLost
from celery_patterns.tasks.headers import HEADER, Tries

if TYPE_CHECKING:
    from celery_patterns.tasks.policy import Call
    from celery_patterns.tasks.state import TaskState

REPORT_SECONDS = 0.5
"""Progress is written at most twice a second: nobody reads faster, and a tight loop must not flood the store."""

LOOK_SECONDS = 1.0
"""How often a heartbeat really asks the store."""

CHECKPOINT_BYTES = 1_000_000
"""A checkpoint is a place to continue from, not the work done; data belongs into a store of its own."""

_current: contextvars.ContextVar[TaskContext | None] = contextvars.ContextVar("celery_patterns_context", default=None)


class NoTaskRunning(LookupError):  # noqa: N818 - it names a state
    """There is no task of patterns whose context could be given."""


class TaskContext:
    """The context of one execution of a task.

    Args:
        call: What came with the message.
        state: The task's hash in the store; None for a task without a policy that keeps state.
        fence: Of what its policies admitted.
        deliveries: How often the task began, this time included.
        deadline: When its time is over, in seconds since the epoch.
        checkpoint: What an earlier execution saved, as JSON.
    """

    def __init__(
        self,
        call: Call,
        *,
        state: TaskState | None = None,
        fence: int | None = None,
        deliveries: int = 1,
        deadline: float | None = None,
        checkpoint: bytes | None = None,
    ) -> None:
        self.call = call
        self.fence = fence
        """Grows with every execution that may take this one's place: pass it to what can refuse an older one. None
        without a policy that locks."""
        self.deliveries = deliveries
        """How often this task began to run, retries and redeliveries after lost workers included."""
        self._state = state
        self._deadline = deadline
        self._checkpoint = checkpoint
        self._reported_at: float | None = None
        self._unreported: tuple[float, float | None, str] | None = None
        self._looked_at: float | None = None
        self._cancelled = False
        self._lost = False

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.call.id

    @property
    def attempt(self) -> int:
        """1 for the first try; deferrals do not count."""
        return self.call.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the task's time is over; None: never."""
        return None if self._deadline is None else datetime.fromtimestamp(self._deadline, UTC)

    @property
    def restored(self) -> Any:
        """What the last execution of this task saved with ``checkpoint``; None if nothing."""
        return None if self._checkpoint is None else json.loads(self._checkpoint)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the task is. Written at most twice a second and never backwards; call it as often as you like.

        Raises:
            StoreUnavailable: If the store does not answer.
        """
        now = time.monotonic()
        finished = total is not None and done >= total
        if not finished and self._reported_at is not None and now - self._reported_at < REPORT_SECONDS:
            self._unreported = (done, total, note)
            return
        self._reported_at = now
        self._unreported = None
        self._lost |= not self._state_of("progress").report(done, total, note)

    def flush(self) -> None:
        """Write the progress that was held back."""
        if self._unreported is not None:
            self._state_of("progress").report(*self._unreported)
            self._unreported = None  # not before: what could not be written is tried again

    def checkpoint(self, value: Any) -> None:
        """Save what ``restored`` will be in the next execution of this task, after a retry or the loss of the worker.

        Raises:
            ValueError: If it is no JSON, or longer than CHECKPOINT_BYTES.
            LeaseLost: If another execution of the task has begun.
            StoreUnavailable: If the store does not answer.
        """
        try:
            encoded = json.dumps(value, separators=(",", ":")).encode()
        except TypeError as error:
            raise ValueError(f"a checkpoint has to be a JSON value: {error}") from error
        if len(encoded) > CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint may have {CHECKPOINT_BYTES} bytes, this one has {len(encoded)}")
        if not self._state_of("checkpoint").save(encoded):
            raise self._gone()
        self._checkpoint = encoded

    def cancelled(self) -> bool:
        """Whether somebody asked this task to stop (``celery_patterns.tasks.cancel``). Asks once a second at most.

        Raises:
            StoreUnavailable: If the store does not answer.
        """
        now = time.monotonic()
        if self._state is not None and (self._looked_at is None or now - self._looked_at >= LOOK_SECONDS):
            self._looked_at = now
            cancelled, lost = self._state.look()
            self._cancelled |= cancelled
            self._lost |= lost
        return self._cancelled

    def heartbeat(self) -> None:
        """Stop here if the task should: call it in loops. Cheap enough for tight ones.

        Raises:
            Cancelled: If somebody asked the task to stop.
            DeadlineExceeded: If its time is over.
            LeaseLost: If another execution of the task has begun, because this one's worker was thought dead.
            StoreUnavailable: If the store does not answer.
        """
        if self._deadline is not None and time.time() >= self._deadline:
            raise DeadlineExceeded(f"the time of task {self.task_id} was over at {self.deadline}")
        if self.cancelled():
            raise Cancelled(f"task {self.task_id} was asked to stop")
        if self._lost:
            raise self._gone()

    def _gone(self) -> LeaseLost:
        return LeaseLost(f"another execution of task {self.task_id} has begun; this one must not go on")

    def _state_of(self, what: str) -> TaskState:
        if self._state is None:
            raise NoTaskRunning(
                f"{what} needs a task that keeps state: declare it with policies=[Progress()] "
                "(or with any policy that uses the store), and run it in a worker"
            )
        return self._state


def current_context() -> TaskContext:
    """Return the context of the task that runs here.

    Raises:
        NoTaskRunning: If none runs, or it is no PatternTask.
    """
    context = _current.get()
    if context is None:
        raise NoTaskRunning("no PatternTask runs here")
    return context


def enter(context: TaskContext) -> contextvars.Token[TaskContext | None]:
    """Make a context the current one; undo it with ``leave``."""
    return _current.set(context)


def leave(token: contextvars.Token[TaskContext | None]) -> None:
    """Make the one before the current one again."""
    _current.reset(token)


def bare_context(task: Any, call_type: type[Call]) -> TaskContext:
    """Return a context for a task that was called without a worker or has no policy."""
    request = task.request
    tries = Tries.of({HEADER: request.get(HEADER)}, request.retries or 0)
    call = call_type(
        task=task,
        id=request.id or "",
        token="",
        arguments={},
        attempt=tries.attempt,
        deferrals=tries.deferrals,
        retries=request.retries or 0,
    )
    return TaskContext(call)
