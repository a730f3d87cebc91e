"""What is measured of a circuit breaker: a call's cost, and whom it lets through while it tries after an outage.

It runs with the other library's interpreter too, so it imports nothing of this project.

``cost CALLS``: milliseconds of calls through a closed circuit. ``half-open CLIENTS``: see ``half_open``. Prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

OPEN_SECONDS = 1.0
TRIAL_SECONDS = 3.0
"""Lease of a trial, where there is one."""
FAILURES = 5
CALL_SECONDS = 1.0
"""Long enough that all clients ask while the first call runs."""
PATIENCE_SECONDS = 20.0


class Client(Protocol):
    """One client of the circuit, with connections of its own."""

    def call(self, function: Callable[[], None]) -> bool:
        """Call under the circuit; False if the circuit refused. Exceptions of the function pass."""


Connect = Callable[[], Client]


def main(connect: Connect) -> None:
    """Measure what the command line says."""
    command, number = sys.argv[1], int(sys.argv[2])
    print(json.dumps(_cost(connect(), number) if command == "cost" else half_open(connect, number)), flush=True)


def _cost(client: Client, calls: int) -> dict[str, Any]:
    spent = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        client.call(_nothing)
        spent.append((time.perf_counter_ns() - began) / 1e6)
    return {"ms": spent}


def half_open(connect: Connect, clients: int) -> dict[str, Any]:
    """Open the circuit; kill the first client that tries; see who gets through then, and when its lease is over."""
    first = connect()
    for _ in range(FAILURES):
        _fail(first)
    opened = not first.call(_nothing)
    killed_at = _kill_the_first(connect)
    at_once = _ask(connect, clients)
    time.sleep(max(0.0, killed_at + TRIAL_SECONDS + 0.3 - time.monotonic()))  # noqa: TID251 - what is measured
    later = _ask(connect, clients) if at_once == 0 else None
    return {"opened": opened, "clients": clients, "passed_at_once": at_once, "passed_after_lease": later}


def _fail(client: Client) -> None:
    def fails() -> None:
        raise ConnectionError("down")

    try:
        client.call(fails)
    except ConnectionError:
        return
    except Exception as error:  # some wrap the failure that opens the circuit
        if not isinstance(error.__cause__ or error.__context__, ConnectionError):
            raise


def _kill_the_first(connect: Connect) -> float:
    """Let a process of its own make the trial, and kill it in the middle; returns when (monotonic)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def hang() -> None:
            os.write(writing, b"1")
            time.sleep(60)

        client = connect()
        while True:
            client.call(hang)
            time.sleep(0.05)
    os.close(writing)
    got = os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if got != b"1":
        raise AssertionError("the first client ended before it tried")
    return time.monotonic()  # noqa: TID251


def _ask(connect: Connect, number: int) -> int:
    """Let so many clients call at the same moment; return how many got through."""
    clients = [connect() for _ in range(number)]
    together = threading.Barrier(number)
    passed: list[bool] = []

    def ask(client: Client) -> None:
        together.wait(PATIENCE_SECONDS)
        passed.append(client.call(lambda: time.sleep(CALL_SECONDS)))

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    if len(passed) != number:
        raise AssertionError(f"{number - len(passed)} of {number} clients did not come back")
    return sum(passed)


def _nothing() -> None:
    """What a call costs that does nothing."""
