"""What a task gives instead when it has failed for good: a value, what a function says, or what another task does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from typing_extensions import override

from celery_patterns.resilience.classification import (
    DEFAULT_RULES,
    Permanent,
    Poison,
    Rules,
    Throttled,
    Transient,
    classify,
)
from celery_patterns.tasks import options
from celery_patterns.tasks.policy import Call, Instead, Policy, PolicyError, Remedy

logger = logging.getLogger(__name__)

KINDS: Final = {"transient": Transient, "throttled": Throttled, "permanent": Permanent, "poison": Poison}

_MISSING: Final = object()


@dataclass(frozen=True)
class Fallback(Policy):
    """End as a success after all, with something else.

    It is asked after the retry policy, so it answers only when there is no further try; and where the task did not run
    because a circuit is open or a bulkhead full (``on_open="fail"``, ``on_full="fail"``). Exactly one of ``value``,
    ``function`` and ``task`` is given.

    Args:
        value: The result, the same for all.
        function: Called with the exception and the task's arguments by keyword; what it returns is the result. If it
            raises, the task fails with its own exception.
        task: Name of another task, which is sent with the same arguments; the result is
            ``{"fallback": <its task id>}``.
        on: For which kinds of failure: some of transient, throttled, permanent, poison.
        rules: How exceptions are classified.
    """

    name: ClassVar[str] = "fallback"
    order: ClassVar[int] = 85

    value: Any = field(default=_MISSING)
    function: Callable[..., Any] | None = None
    task: str | None = None
    on: tuple[str, ...] = ("transient", "throttled", "permanent")
    rules: Rules = DEFAULT_RULES

    def __post_init__(self) -> None:
        given = (self.value is not _MISSING) + (self.function is not None) + (self.task is not None)
        if given != 1:
            raise PolicyError(f"fallback: expected exactly one of value=, function= and task=, got {given} of them")
        if self.function is not None and not callable(self.function):
            raise PolicyError(f"fallback: function: expected something callable, got {self.function!r}")
        if self.task is not None:
            options.text("fallback: task", self.task)
        on: Any = self.on
        if isinstance(on, str):
            raise PolicyError(f"fallback: on: expected a tuple such as ('transient',), got the text {self.on!r}")
        for kind in self.on:
            options.choice("fallback: on", kind, KINDS)

    @override
    def on_failure(self, call: Call, error: BaseException) -> Remedy | None:
        """Give the other result."""
        verdict = classify(error, self.rules)
        if not isinstance(verdict, tuple(KINDS[kind] for kind in self.on)):
            return None
        if self.task is not None:
            try:
                sent = call.task.app.send_task(self.task, kwargs=dict(call.arguments), headers={"fallback_of": call.id})
            except Exception:  # the broker is away, say: the task's own error is the one to tell
                logger.exception("the fallback %s of %s[%s] could not be sent", self.task, call.name, call.id)
                return None
            result: Any = {"fallback": sent.id}
        elif self.function is not None:
            try:
                result = self.function(error, **call.arguments)
            except Exception:
                logger.exception("the fallback of %s[%s] failed itself", call.name, call.id)
                return None
        else:
            result = self.value
        logger.warning("%s[%s] failed and falls back: %s", call.name, call.id, verdict.reason)
        return Instead(result)

    @override
    def on_refusal(self, call: Call, error: Exception) -> Instead | None:
        """Give the other result if what the task needs asks for patience; a duplicate, say, is no failure to mend."""
        if not isinstance(classify(error, self.rules), Throttled):
            return None
        remedy = self.on_failure(call, error)
        return remedy if isinstance(remedy, Instead) else None
