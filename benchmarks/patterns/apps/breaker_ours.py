"""This project's circuit breaker."""

from __future__ import annotations

import os
from collections.abc import Callable

from celery import Celery

from benchmarks.patterns.apps.breaker_scene import FAILURES, OPEN_SECONDS, TRIAL_SECONDS, main
from celery_patterns.resilience.circuit import CircuitBreaker, CircuitOpen, CircuitSettings
from celery_patterns.store import Store, StoreSettings

SETTINGS = CircuitSettings(minimum_calls=FAILURES, open_seconds=OPEN_SECONDS, trial_seconds=TRIAL_SECONDS)


class Ours:
    """A client with a breaker and a connection of its own."""

    def __init__(self) -> None:
        store = Store(Celery("bench", set_as_current=False), StoreSettings(url=os.environ["STORE_URL"]))
        self._breaker = CircuitBreaker(store, "bench", SETTINGS)

    def call(self, function: Callable[[], None]) -> bool:
        """Call under the circuit."""
        try:
            self._breaker.call(function)
        except CircuitOpen:
            return False
        return True


if __name__ == "__main__":
    main(Ours)
