"""Where a task goes that has failed for good: its message is kept, so that it can be looked at and sent again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from typing_extensions import override

from celery_patterns.tasks.errors import TaskRefused
from celery_patterns.tasks.headers import HEADER, TOKEN, Tries
from celery_patterns.tasks.policy import Call, Policy, PolicyError

logger = logging.getLogger(__name__)

Reason = Literal["failed", "refused", "lost", "time_limit"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One message that will not be tried again."""

    task: str
    task_id: str
    queue: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any] = field(repr=False)
    """As they came, so that it can be published again under the same id."""
    embed: Mapping[str, Any] = field(repr=False)
    """Celery's callbacks, errbacks, chain and chord."""
    error: BaseException
    reason: Reason
    attempts: int


@runtime_checkable
class DeadLetters(Protocol):
    """Keeps letters."""

    def put(self, letter: Letter) -> None:
        """Keep one. What it raises is logged, and the task fails all the same."""


@dataclass(frozen=True, slots=True)
class DeadLetter(Policy):
    """A message whose task has failed for good is kept.

    Raises:
        PolicyError: If ``to`` is no keeper.
    """

    to: DeadLetters | Callable[[Any], DeadLetters]
    """The keeper, or a function of the application that returns it."""

    name: ClassVar[str] = "dead_letter"
    order: ClassVar[int] = 90

    def __post_init__(self) -> None:
        to: Any = self.to
        if not isinstance(to, DeadLetters) and not callable(to):
            raise PolicyError(f"DeadLetter.to: expected something with put(letter), or a function of it, got {to!r}")

    @override
    def given_up(self, call: Call, error: BaseException) -> None:
        request = call.task.request
        headers = {**(request.headers or {})}
        headers.pop(TOKEN, None)
        self._put(
            call.task,
            Letter(
                task=call.name,
                task_id=call.id,
                queue=str((request.delivery_info or {}).get("routing_key") or ""),
                args=tuple(request.args or ()),
                kwargs=dict(request.kwargs or {}),
                headers=headers,
                embed={
                    "callbacks": request.callbacks,
                    "errbacks": request.errbacks,
                    "chain": request.chain,
                    "chord": request.chord,
                },
                error=error,
                reason="refused" if isinstance(error, TaskRefused) else "failed",
                attempts=call.attempt,
            ),
        )

    @override
    def lost(self, task: Any, request: Any, error: BaseException) -> None:
        headers = dict(request.message.headers or {})
        args, kwargs, embed = request.message.payload
        tries = Tries.of({HEADER: headers.get(HEADER)}, int(headers.get("retries") or 0))
        self._put(
            task,
            Letter(
                task=task.name,
                task_id=request.id,
                queue=str((request.delivery_info or {}).get("routing_key") or ""),
                args=tuple(args),
                kwargs=dict(kwargs),
                headers=headers,
                embed=dict(embed or {}),
                error=error,
                reason="time_limit" if type(error).__name__ == "TimeLimitExceeded" else "lost",
                attempts=tries.attempt,
            ),
        )

    def _put(self, task: Any, letter: Letter) -> None:
        to: Any = self.to
        keeper = to if isinstance(to, DeadLetters) else to(task.app)
        keeper.put(letter)
        logger.info("%s[%s] is kept as a dead letter (%s)", letter.task, letter.task_id, letter.reason)
