"""Circuits as others see them: what the store says of each, and their changes as they happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from celery_patterns.resilience import circuit_scripts as scripts
from celery_patterns.resilience.circuit_settings import BUCKETS
from celery_patterns.store import Store

State: TypeAlias = Literal["closed", "open", "half_open"]

SUBSCRIBE_SECONDS: Final = 5.0
"""How long the server's answer to a subscription is waited for."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a circuit's state."""

    circuit: str
    before: State
    after: State
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitState:
    """What the store says of a circuit."""

    name: str
    state: State
    calls: int = 0
    failures: int = 0
    slow: int = 0
    """The three count the window of a closed circuit."""
    open_for: float = 0.0
    """Seconds until an open circuit may be tried."""
    since: float | None = None
    """Seconds in this state; None: it has never changed, or that is forgotten."""
    forced: bool = False
    reason: str = ""
    trial: str = ""
    """Who tries, in half open."""
    generation: int = 0


def look(store: Store, name: str) -> CircuitState:
    """Return the state of a circuit.

    Raises:
        StoreUnavailable: If it cannot be read.
    """
    reply = store.run(scripts.LOOK, [store.key("circuit", name)], ["", BUCKETS])
    state, generation, calls, failures, slow, left, since, forced, reason, trial = reply
    return CircuitState(
        name=name,
        state=state.decode(),
        calls=int(calls),
        failures=int(failures),
        slow=int(slow),
        open_for=int(left) / 1000,
        since=None if int(since) < 0 else int(since) / 1000,
        forced=bool(forced),
        reason=reason.decode(),
        trial=trial.decode(),
        generation=int(generation),
    )


@contextmanager
def changes(store: Store) -> Iterator[Callable[[float], Change | None]]:
    """Listen to the changes of all circuits of a store, whichever process brings them about.

    Gives a function that waits up to so many seconds for the next change. What happens while nobody listens is not
    kept: the circuits' states are (``CircuitBreaker.state``).

    Raises:
        StoreUnavailable: If the store does not answer; also from the function.
    """
    begin, end = store.key("circuit", ""), ":changes"
    listening = store.client.pubsub(ignore_subscribe_messages=True)
    store.call(listening.psubscribe, store.pattern("circuit") + end)
    store.call(listening.get_message, timeout=SUBSCRIBE_SECONDS)  # the answer to that: from here on nothing is missed

    def heard(seconds: float) -> Change | None:
        message = store.call(listening.get_message, timeout=seconds)
        if message is None:
            return None
        name = message["channel"].decode().removeprefix(begin).removesuffix(end)
        before, after, reason = message["data"].decode().split(" ", 2)
        return Change(name, before, after, reason)

    try:
        yield heard
    finally:
        listening.close()


def circuits(store: Store) -> list[CircuitState]:
    """Return the states of all circuits that are in use or open, by name.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    begin = store.key("circuit", "")
    found: list[bytes] = store.call(lambda: list(store.client.scan_iter(match=store.pattern("circuit"), count=500)))
    names = sorted({key.decode().removeprefix(begin) for key in found})
    return [look(store, name) for name in names]
