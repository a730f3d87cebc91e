"""A circuit breaker that a fleet shares: when a dependency fails, nobody asks it for a while; then exactly one does.

Closed: calls go through and are counted in a rolling window. Open, once enough of them failed or were slow: calls are
refused at once. Half open, after ``open_seconds``: one call at a time is the trial, under a lease, so that a caller
that dies during it holds the circuit up no longer than that. Enough trials that pass close the circuit, one that fails
opens it again.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeAlias, TypeVar

from typing_extensions import override

from celery_patterns.resilience import circuit_scripts as scripts
from celery_patterns.resilience.circuit_settings import CircuitSettings
from celery_patterns.resilience.circuit_state import Change, CircuitState, State, changes, circuits, look
from celery_patterns.resilience.classification import DEFAULT_RULES, Rules, Throttled, Transient, classify
from celery_patterns.resilience.http_errors import read_http
from celery_patterns.store import Store, StoreUnavailable
from celery_patterns.tasks.errors import TaskRefused

__all__ = [
    "Change",
    "CircuitBreaker",
    "CircuitOpen",
    "CircuitSettings",
    "CircuitState",
    "Listener",
    "Permit",
    "Result",
    "State",
    "changes",
    "circuits",
    "judge",
]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

STORE_PAUSE_SECONDS: Final = 1.0
"""After the store did not answer, it is not asked again for so long: each question may cost seconds."""


class CircuitOpen(TaskRefused):
    """The circuit is open: the call was not made. ``retry_after`` is in seconds."""

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(name, retry_after)
        self.circuit = name
        self.retry_after = retry_after

    @override
    def __str__(self) -> str:
        return f"the circuit {self.circuit!r} is open: try again in {self.retry_after:.1f} s"


class Result(Protocol):
    """Says what a call's exception means for the dependency: True it failed, False it answered, None neither."""

    def __call__(self, error: BaseException, /) -> bool | None:
        """Decide."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; give it back with ``record``."""

    holder: str
    generation: int | None
    """None: the store did not answer, so the call is made unguarded and not counted."""
    trial: bool = False


Listener: TypeAlias = Callable[[Change], None]


def judge(error: BaseException | None, rules: Rules = DEFAULT_RULES) -> bool | None:
    """Say whether a dependency failed: None if the exception says nothing about it."""
    if error is None:
        return False
    if not isinstance(error, Exception) or isinstance(error, TaskRefused):
        return None
    if isinstance(classify(error, rules), (Transient, Throttled)):
        return True
    # It was refused, but it answered; anything else (a TypeError) may have happened before it was even asked.
    return False if read_http(error) is not None else None


class CircuitBreaker:
    """One circuit; objects of one name and store are one circuit, in all processes.

    Use it as a context manager, as a decorator, or by ``allow`` and ``record``. Safe for threads.

    Args:
        store: The state store.
        name: Usually the dependency's.
        settings: When it opens and closes.
        rules: How exceptions are classified: transient ones and throttling count as failures.
        failed: Decides that instead of ``rules``.
        listeners: Called with each change that this process brings about; their errors are logged.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: CircuitSettings | None = None,
        *,
        rules: Rules = DEFAULT_RULES,
        failed: Result | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self.name = name
        self.settings = settings or CircuitSettings()
        self.key = store.key("circuit", name)
        self.listeners = list(listeners)
        self._store = store
        self._rules = rules
        self._failed = failed
        self._local = threading.local()
        self._ask_again_at = 0.0

    # ---- one call

    def allow(self, holder: str | None = None) -> Permit:
        """Ask for leave to make one call.

        Raises:
            CircuitOpen: If it is not given.
        """
        holder = holder or uuid.uuid4().hex
        if time.monotonic() < self._ask_again_at:
            return self._without_store(holder)
        try:
            reply = self._store.run(scripts.ALLOW, [self.key], [holder, *self.settings.allow_arguments()])
        except StoreUnavailable as error:
            self._ask_again_at = time.monotonic() + STORE_PAUSE_SECONDS
            logger.warning("the circuit %r counts as %s: %s", self.name, self.settings.store_down, error)
            return self._without_store(holder)
        return self._permit(holder, reply)

    def _permit(self, holder: str, reply: Any) -> Permit:
        """Read what ALLOW returned; raise CircuitOpen if it refused."""
        refused, generation, wait_ms, trial = (int(number) for number in reply)
        if refused:
            raise CircuitOpen(self.name, wait_ms / 1000)
        self.read_allowed(trial)
        return Permit(holder, generation, trial=trial > 0)

    def read_allowed(self, trial: int) -> None:
        """Read what ALLOW_CHUNK says of a trial, and tell the listeners."""
        if trial == 2:
            self._tell("open", "half_open", "its time is over: one call tries")

    def record(self, permit: Permit, error: BaseException | None = None, seconds: float = 0.0) -> None:
        """Say how the call went that a permit was given for. A store that does not answer is logged, not raised."""
        if permit.generation is None:
            return
        arguments = self.settings.record_arguments(permit.generation, failed=self.judge(error), seconds=seconds)
        try:
            reply = self._store.run(scripts.RECORD, [self.key], [permit.holder, *arguments])
        except StoreUnavailable as unavailable:
            self._ask_again_at = time.monotonic() + STORE_PAUSE_SECONDS
            logger.warning("a call of the circuit %r is not counted: %s", self.name, unavailable)
            return
        self.read_recorded(reply)

    def read_recorded(self, reply: Any) -> None:
        """Read what RECORD_CHUNK returned, and tell the listeners."""
        change = int(reply[0])
        if change:
            self._tell(reply[2].decode(), "closed" if change == 1 else "open", reply[1].decode())

    def judge(self, error: BaseException | None) -> bool | None:
        """Say whether the dependency failed: None if the exception says nothing about it (a bug of ours)."""
        if error is None or self._failed is None:
            return judge(error, self._rules)
        return self._failed(error)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function under the circuit.

        Raises:
            CircuitOpen: If it is open; the function is not called then.
        """
        with self:
            return function(*args, **kwargs)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function."""

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return guarded

    def __enter__(self) -> Self:
        permit = self.allow()
        self._stack().append((permit, time.monotonic()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit, began = self._stack().pop()
        self.record(permit, error, time.monotonic() - began)

    # ---- the circuit

    def state(self) -> CircuitState:
        """Return the circuit's state.

        Raises:
            StoreUnavailable: If it cannot be read.
        """
        return look(self._store, self.name)

    def force_open(self, seconds: float, reason: str = "opened by hand") -> None:
        """Open the circuit for so long, whatever it is; a trial follows.

        Raises:
            StoreUnavailable: If that cannot be written.
            ValueError: If ``seconds`` is not above 0.
        """
        if not 0 < seconds <= 30 * 86_400:
            raise ValueError(f"seconds must be above 0 and at most 30 days, got {seconds!r}")
        self._force("open", seconds, reason)

    def reset(self, reason: str = "closed by hand") -> None:
        """Close the circuit and forget what it counted.

        Raises:
            StoreUnavailable: If that cannot be written.
        """
        self._force("closed", 0, reason)

    def _force(self, state: State, seconds: float, reason: str) -> None:
        arguments = ["", state, int(seconds * 1000), self.settings.keep_ms, reason]
        before = self._store.run(scripts.FORCE, [self.key], arguments)
        self._tell(before.decode(), state, reason)

    # ---- inside

    def _without_store(self, holder: str) -> Permit:
        if self.settings.store_down == "open":
            raise CircuitOpen(self.name, STORE_PAUSE_SECONDS)
        return Permit(holder, None)

    def _stack(self) -> list[tuple[Permit, float]]:
        if not hasattr(self._local, "permits"):
            self._local.permits = []
        permits: list[tuple[Permit, float]] = self._local.permits
        return permits

    def _tell(self, before: State, after: State, reason: str) -> None:
        change = Change(self.name, before, after, reason)
        level = logging.WARNING if after == "open" else logging.INFO
        logger.log(level, "the circuit %r turns from %s to %s: %s", self.name, before, after, reason)
        for listener in self.listeners:
            try:
                listener(change)
            except Exception:
                logger.exception("a listener of the circuit %r failed", self.name)
