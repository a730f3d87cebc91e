"""Real prefork workers under a lease: a killed child, a main process that stands still, a task of many leases."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from agent.stage import LEDGER_DB, Stage
from celery_patterns import protocol
from celery_patterns.examples.ledger import LEDGER_KEY
from servers import Worker, eventually, redis_server

LEASE_SECONDS = 3
LEASE = {protocol.ENV_AGENT_LEASE: str(LEASE_SECONDS)}
LONG_SECONDS = 6 * LEASE_SECONDS
"""Ten minutes under a timeout of ten seconds, but shorter: several leases and many renewals."""


@pytest.fixture
def alone(stack: ExitStack) -> Stage:
    """A stage on a Redis of its own: leases concern all workers of a database."""
    server = stack.enter_context(redis_server())
    return Stage(broker=server, results=server, stack=stack)


def pids(stage: Stage) -> dict[str, int]:
    """Return the process in which each task began last."""
    with stage.broker.client(LEDGER_DB) as client:
        lines: Any = client.lrange(LEDGER_KEY, 0, -1)
    return {entry["key"]: entry["pid"] for entry in map(json.loads, lines) if entry["event"] == "start"}


def held(stage: Stage) -> int:
    """Return how many messages could come back by a lease."""
    return int(stage.broker_client.hlen("unacked" + protocol.LEASED_SUFFIX))


@contextmanager
def standing_still(worker: Worker) -> Iterator[None]:
    """Stop the main process, and nothing else; its children go on."""
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_killed_childs_task_ends_as_its_settings_say_and_leaves_nothing_to_come_back(alone: Stage) -> None:
    """Failed, back in its queue, or retried; whichever it is, no lease brings it back once more."""
    kinds = ("fail", "requeue", "retry")
    with alone.worker(app="mortal_tasks:app", concurrency=3, env=LEASE) as worker:
        ids = {kind: alone.send_plain(f"mortal.{kind}", kind) for kind in kinds}
        for kind in kinds:
            alone.wait_ledger(kind, "start")
        for pid in pids(alone).values():
            os.kill(pid, signal.SIGKILL)
        expected = {"fail": "FAILURE", "requeue": "SUCCESS", "retry": "SUCCESS"}
        eventually(lambda: {kind: status(alone, ids[kind]) for kind in kinds} == expected, within=30, what=worker.log)
        eventually(lambda: (held(alone), alone.waiting()) == (0, 0), what=worker.log)
        twice = Counter(start=2, finish=1)
        assert alone.ledger() == {"fail": Counter(start=1), "requeue": twice, "retry": twice}
        assert "silent" not in worker.log()


def status(stage: Stage, task_id: str) -> str | None:
    raw = stage.store.get(f"{protocol.RESULT_KEY_PREFIX}{task_id}")
    return None if raw is None else str(json.loads(raw)["status"])


def test_main_process_that_stood_still_repeats_no_workflows_task_that_ended_meanwhile(
    alone: Stage, once: Counter[str]
) -> None:
    """What its children end is not repeated elsewhere; what was done elsewhere while it waited is not repeated here.

    Only what still ran at the end of the lease runs twice; and of plain tasks, also what waited.
    """
    short, running, behind = (alone.identity(step) for step in ("short", "running", "behind"))
    prefetch = ["--prefetch-multiplier", "4"]
    with alone.worker(env=LEASE, arguments=prefetch, concurrency=2) as stopped:
        for identity, seconds in ((short, 4), (running, 5 * LEASE_SECONDS)):
            alone.record(identity, seconds)
        for identity in (short, running):
            alone.wait_ledger(identity.task_id, "start")
        alone.record(behind)
        alone.send_plain("examples.ledger.record", "plain")
        stopped.wait_state(lambda state: (state.active, state.reserved) == (2, 2))
        with standing_still(stopped), alone.worker(env=LEASE, concurrency=2) as heir:
            alone.wait_ledger(running.task_id, "start", times=2, within=30)
            for key in (behind.task_id, "plain"):
                alone.wait_ledger(key, "finish", within=20)
            eventually(lambda: heir.state().finished.get("DROPPED") == 1, what=heir.log)
            assert heir.log().count(f"has been silent for {LEASE_SECONDS} s") == 4
            heir.kill()
        alone.wait_ledger("plain", "finish", times=2, within=20)
        alone.wait_ledger(running.task_id, "finish", within=30)
        eventually(lambda: stopped.state().finished.get("DROPPED") == 1, what=stopped.log)
    assert alone.ledger() == {
        short.task_id: once,
        behind.task_id: once,
        running.task_id: Counter(start=2, finish=1),
        "plain": Counter(start=2, finish=2),
    }


def test_task_of_many_leases_and_timeouts_runs_once(alone: Stage, once: Counter[str]) -> None:
    """Beside it, free workers of the same queue look for leases that are over, one without an agent for timeouts."""
    env = LEASE | {"TEST_VISIBILITY_SECONDS": "2"}
    with ExitStack() as stack:
        workers = [stack.enter_context(alone.worker(pool=pool, env=env)) for pool in ("prefork", "threads")]
        stack.enter_context(alone.worker(queues="other", env=env, agent=False))
        alone.send_plain("examples.ledger.record", "long", LONG_SECONDS)
        alone.wait_ledger("long", "start")
        alone.send_plain("examples.ledger.record", "long too", LONG_SECONDS)
        for key in ("long", "long too"):
            alone.wait_ledger(key, "finish", within=LONG_SECONDS + 20)
        eventually(lambda: (held(alone), alone.waiting()) == (0, 0))
        assert alone.ledger() == {"long": once, "long too": once}
        assert [worker.log().count("silent") for worker in workers] == [0, 0]
