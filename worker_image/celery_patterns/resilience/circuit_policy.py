"""The circuit breaker as a task's policy: its questions travel with those of the other policies, in one round trip."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from celery.exceptions import TimeLimitExceeded
from typing_extensions import override

from celery_patterns.resilience import circuit_scripts as scripts
from celery_patterns.resilience.circuit import CircuitBreaker, CircuitOpen, CircuitSettings, Listener, Result
from celery_patterns.resilience.classification import DEFAULT_RULES, Rules
from celery_patterns.store import StoreUnavailable
from celery_patterns.tasks import options
from celery_patterns.tasks.keys import bind_arguments, check_template, render
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import (
    Admit,
    Call,
    Decision,
    Defer,
    Fragment,
    Outcome,
    Policy,
    PolicyError,
    Refuse,
    Step,
)

logger = logging.getLogger(__name__)

FRAGMENT: Final = Fragment(
    "circuit", admit=scripts.ALLOW_CHUNK, undo=scripts.GIVE_BACK_CHUNK, settle=scripts.RECORD_CHUNK
)

SPREAD: Final = 0.25
"""Deferred tasks come back spread over this share of the wait, so that they do not all ask for the one trial."""


@dataclass(frozen=True)
class Circuit(Policy):
    """Let the task run only while what it depends on works.

    Args:
        circuit: The circuit's name, a template over the task's arguments: ``"payments-api"``, ``"api:{tenant}"``.
        window, min_calls, failure_rate, slow_call, slow_rate, open_for, trials, trial_lease, if_store_down: See
            ``CircuitSettings``; durations are seconds or texts such as ``"30s"``.
        on_open: ``defer``: the message comes back when the circuit may have closed, at no cost of retries; ``fail``:
            the task fails with CircuitOpen.
        max_defer: The longest a task is deferred in all before it fails; None: for ever.
        rules: How exceptions are classified; transient ones and throttling count as failures.
        failed: Decides that instead of ``rules``: True it failed, False it answered, None neither.
        listeners: Called with each change that the worker's process brings about; their errors are logged.
    """

    name: ClassVar[str] = "circuit"
    order: ClassVar[int] = 50
    needs_store: ClassVar[bool] = True

    circuit: str
    window: options.Duration = "60s"
    min_calls: int = 20
    failure_rate: float = 0.5
    slow_call: options.Duration | None = None
    slow_rate: float = 0.8
    open_for: options.Duration = "30s"
    trials: int = 1
    trial_lease: options.Duration = "60s"
    on_open: str = "defer"
    max_defer: options.Duration | None = None
    if_store_down: str = "closed"
    rules: Rules = DEFAULT_RULES
    failed: Result | None = None
    listeners: Sequence[Listener] = ()
    settings: CircuitSettings = field(init=False, repr=False)

    def __post_init__(self) -> None:
        options.text("circuit", self.circuit)
        options.choice("circuit: on_open", self.on_open, ("defer", "fail"))
        if self.max_defer is not None:
            options.duration("circuit: max_defer", self.max_defer)
        deciding: Any = self.failed
        if deciding is not None and not callable(deciding):
            raise PolicyError(f"circuit: failed: expected a function of an exception, got {deciding!r}")
        told: Any = self.listeners
        if isinstance(told, str) or not isinstance(told, Sequence) or not all(callable(each) for each in told):
            raise PolicyError(f"circuit: listeners: expected a list of functions of a Change, got {told!r}")
        try:
            settings = CircuitSettings(
                window_seconds=options.duration("window", self.window),
                minimum_calls=options.whole("min_calls", self.min_calls, low=1),
                failure_rate=self.failure_rate,
                slow_seconds=None if self.slow_call is None else options.duration("slow_call", self.slow_call),
                slow_rate=self.slow_rate,
                open_seconds=options.duration("open_for", self.open_for),
                trials=options.whole("trials", self.trials, low=1),
                trial_seconds=options.duration("trial_lease", self.trial_lease),
                store_down=self.if_store_down,  # type: ignore[arg-type] # checked there
            )
        except ValueError as error:
            raise PolicyError(f"circuit: {error}") from None
        object.__setattr__(self, "settings", settings)

    @override
    def bind(self, task: Any) -> None:
        """Check the name's template against the task's arguments."""
        check_template("circuit", self.circuit, task)

    @override
    def admission(self, call: Call) -> Step:
        """Ask for leave."""
        return Step(FRAGMENT, (self._key(call),), tuple(self.settings.allow_arguments()))

    @override
    def admitted(self, call: Call, reply: list[Any]) -> Decision:
        """Run it, or what ``on_open`` says."""
        refused, generation, wait_ms, trial = (int(number) for number in reply)
        if refused:
            return self._refuse(call, wait_ms / 1000)
        call.notes[self.name] = generation
        self._breaker(call).read_allowed(trial)
        return Admit()

    @override
    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step:
        """Count how it went."""
        generation = call.notes[self.name]
        if outcome is Outcome.SUCCESS:
            failed: bool | None = False
        elif outcome in (Outcome.FAILURE, Outcome.RETRY) and isinstance(result, BaseException):
            failed = self._breaker(call).judge(result)
        else:
            failed = None
        arguments = self.settings.record_arguments(generation, failed=failed, seconds=seconds)
        return Step(FRAGMENT, (self._key(call),), tuple(arguments))

    @override
    def settled(self, call: Call, outcome: Outcome, reply: Any) -> None:
        """Tell the log, and who listens, when this call changed the circuit."""
        del outcome
        self._breaker(call).read_recorded(reply)

    @override
    def lost(self, task: Any, request: Any, error: BaseException) -> None:
        """Count a call that hung until the hard time limit; one that was killed otherwise frees its trial.

        The generation in which it was admitted went with its process: in a closed circuit it counts in any case.
        """
        arguments = bind_arguments(task, request.args, request.kwargs)
        call = Call(task=task, id=request.id, token=request.token, arguments=arguments)
        failed = True if isinstance(error, TimeLimitExceeded) else None
        seconds = 0.0 if request.time_start is None else time.time() - request.time_start
        recorded = self.settings.record_arguments(None, failed=failed, seconds=seconds)
        breaker = self._breaker(call)
        try:
            reply = patterns_of(task.app).store.run(scripts.RECORD, [breaker.key], [call.holder, *recorded])
        except StoreUnavailable as unavailable:
            logger.warning("a call of the circuit %r is not counted: %s", breaker.name, unavailable)
            return
        breaker.read_recorded(reply)

    @override
    def store_down(self, call: Call, error: Exception) -> Decision:
        """Run it, or what ``on_open`` says: the circuit cannot be read."""
        del error
        return Admit() if self.settings.store_down == "closed" else self._refuse(call, self.settings.open_seconds)

    def _refuse(self, call: Call, seconds: float) -> Decision:
        name = render(self.circuit, call.arguments)
        if self.on_open == "fail":
            return Refuse(CircuitOpen(name, seconds))
        spread = seconds * (1 + SPREAD * random.random())
        limit = None if self.max_defer is None else options.duration("circuit: max_defer", self.max_defer)
        return Defer(spread, f"the circuit {name!r} is open", give_up_after=limit)

    def _breaker(self, call: Call) -> CircuitBreaker:
        return CircuitBreaker(
            patterns_of(call.task.app).store,
            render(self.circuit, call.arguments),
            self.settings,
            rules=self.rules,
            failed=self.failed,
            listeners=self.listeners,
        )

    def _key(self, call: Call) -> str:
        return patterns_of(call.task.app).key("circuit", render(self.circuit, call.arguments))
