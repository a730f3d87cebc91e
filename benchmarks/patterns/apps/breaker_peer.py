"""pybreaker with its state in Redis."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import redis

from benchmarks.patterns.apps.breaker_scene import FAILURES, OPEN_SECONDS, main

pybreaker: Any = importlib.import_module("pybreaker")


class Peer:
    """A client with a breaker and a connection of its own."""

    def __init__(self) -> None:
        connection = redis.Redis.from_url(os.environ["STORE_URL"])
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, connection, namespace="bench")
        self._breaker = pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=OPEN_SECONDS, state_storage=storage)

    def call(self, function: Callable[[], None]) -> bool:
        """Call under the circuit."""
        try:
            self._breaker.call(function)
        except pybreaker.CircuitBreakerError as error:
            if isinstance(error.__context__, ConnectionError):
                raise
            return False
        return True


if __name__ == "__main__":
    main(Peer)
