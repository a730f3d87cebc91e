"""Circuit breakers over Redis, ours and pybreaker: a call's cost, and whom a half-open circuit lets through."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.patterns.kills import Row
from benchmarks.patterns.peers import PeersUnavailableError, peers_python
from benchmarks.patterns.programs import CHECKOUT, answer_of
from benchmarks.patterns.proxy import counting_proxy
from benchmarks.series import summary
from servers import RedisServer, redis_server

CLIENTS = 20
SCRIPT_SECONDS = 120.0
WARM_UP = 50

Say = Callable[[str], None]


def measure_circuits(calls: int, say: Say) -> tuple[dict[str, Any], list[Row]]:
    """Return milliseconds and round trips of a call by library, and the lines about half-open circuits."""
    subjects = {"ours": ("celery-patterns CircuitBreaker", Path(sys.executable), "breaker_ours")}
    try:
        subjects = {"pybreaker": ("pybreaker", peers_python(say), "breaker_peer"), **subjects}
    except PeersUnavailableError as error:
        say(f"pybreaker cannot be installed, so it has no line: {error}")
    costs: dict[str, Any] = {}
    rows = []
    for name, (library, python, module) in subjects.items():
        with redis_server() as redis:
            costs[name] = _cost(redis, python, module, calls)
        with redis_server() as redis:
            found = _script(python, module, redis.url(), "half-open", CLIENTS)
        say(
            f"{library}: a call {costs[name]['p50']:.3f} ms in {costs[name]['round_trips']:.2f} round trips; "
            f"{_outcome(found)}"
        )
        if not found["opened"]:
            raise AssertionError(f"the circuit of {library} did not open")
        rows.append(Row(library, "the client that tries a half-open circuit", "", _outcome(found), found))
    return costs, rows


def _cost(redis: RedisServer, python: Path, module: str, calls: int) -> dict[str, Any]:
    spent = _script(python, module, redis.url(), "cost", calls + WARM_UP)["ms"][WARM_UP:]
    with counting_proxy(redis.port) as counter:
        trips = []
        for number in (WARM_UP, WARM_UP + calls):
            before = counter.trips
            _script(python, module, counter.url(), "cost", number)
            trips.append(counter.trips - before)
    # The difference of two runs: connecting and loading scripts are in both.
    return {**summary(spent), "round_trips": round((trips[1] - trips[0]) / calls, 3)}


def _outcome(found: dict[str, Any]) -> str:
    clients, at_once, later = found["clients"], found["passed_at_once"], found["passed_after_lease"]
    if later is None:
        return f"{at_once} of {clients} clients that ask together afterwards are let through"
    return f"{at_once} of {clients} clients that ask together are let through at once, {later} when its lease is over"


def _script(python: Path, module: str, url: str, command: str, number: int) -> dict[str, Any]:
    program = [str(python), "-m", f"benchmarks.patterns.apps.{module}", command, str(number)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "STORE_URL": url}
    return answer_of(program, environment, within=SCRIPT_SECONDS)
