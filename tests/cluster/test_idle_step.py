"""A long step costs next to nothing: its end is announced, and nobody asks for it again and again."""

from __future__ import annotations

from typing import Any

from servers import eventually
from support.manifests import output, task
from support.playground import BACKEND, Playground, condition

STEP_SECONDS = 66.0
WATCHED_SECONDS = 60.0
READS = ("get", "mget", "hget", "hmget", "hgetall", "exists", "getrange", "eval", "evalsha", "fcall")
"""Commands with which one would look whether a result is there, or a claim renewed."""
SWEEPS = 6
"""After 1, 3, 7, 15, 31 and 61 seconds: each waits twice as long as the one before, thirty seconds at most."""
READS_OF_A_SWEEP = 2
"""The result, and the claim."""
RENEWALS = 7
"""The worker renews its claim every 10 seconds with one script, which reads the claim and writes it."""
READS_OF_A_RENEWAL = 2
"""The script and the HMGET inside of it: Redis counts both."""


def test_an_idle_minute_shows_no_polling_beyond_the_sweep(ground: Playground) -> None:
    # A server of their own for results: the broker's is asked by workers all the time, which is how Celery works.
    ground.start_redis("results")
    ground.create_app("quiet", backend="results")
    ground.create_pool("quiet", app="quiet", replicas=1)
    ground.wait_condition("CeleryWorkerPool", "quiet", "Ready", "True", within=60)
    work = [{"task": task("examples.ledger.record", "idle", STEP_SECONDS)}]
    ground.create_workflow("idle", app="quiet", chain=work, outputs=[output("result")])
    eventually(lambda: len(ground.ledger.started()) == 1, within=30, every=0.1, what="the start of the step")
    results = ground.redis("results")
    results.ask(BACKEND, lambda client: client.config_resetstat())
    began = ground.ledger.started()[0].at
    eventually(lambda: _now(ground) - began >= WATCHED_SECONDS, within=WATCHED_SECONDS + 30, every=1.0, what="a minute")
    assert ground.ledger.finished() == (), "the step ended while it was watched"
    calls = _calls(results.ask(BACKEND, lambda client: client.info("commandstats")))
    reads = {name: count for name, count in calls.items() if name in READS}
    assert sum(reads.values()) <= SWEEPS * READS_OF_A_SWEEP + RENEWALS * READS_OF_A_RENEWAL, calls
    assert calls.get("keys", 0) + calls.get("scan", 0) == 0, calls
    ended = ground.wait_ended("idle", within=STEP_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"
    assert ground.outputs("idle") == {"result": "idle"}


def _now(ground: Playground) -> float:
    """Return the time of the broker's Redis: the server that is watched is left alone."""
    seconds, microseconds = ground.redis().ask(BACKEND, lambda client: client.time())
    return float(seconds) + float(microseconds) / 1e6


def _calls(stats: dict[str, Any]) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}
