"""What tasks held whose process, main process or worker got SIGKILL: one commit, and locks free with the lease."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
from celery.exceptions import WorkerLostError

from patterns.tasks import mortal
from patterns.tasks.conftest import StartWorker
from servers import Worker, eventually

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]

DoomedAndHeir = Callable[[Any], AbstractContextManager[tuple[Worker, Worker]]]

LEASE_SECONDS = 2
# Where a frozen worker's message is to come back soon. So short a timeout delivers a slow test's messages twice.
SOON_BACK = {"SHOP_VISIBILITY": "2"}


def lease(seconds: float) -> dict[str, str]:
    return {"CELERY_PATTERNS_LEASE_SECONDS": str(seconds)}


@pytest.fixture
def start(start_worker: StartWorker) -> StartWorker:
    return partial(start_worker, app="patterns.tasks.mortal:app")


@pytest.fixture
def doomed_and_heir(start: StartWorker, wait_start: WaitStart, key: str) -> DoomedAndHeir:
    """Start a worker that runs a task for long, and one of the queue ``other<key>`` that is to have what it held."""

    @contextmanager
    def begun(task: Any) -> Iterator[tuple[Worker, Worker]]:
        env = lease(LEASE_SECONDS)
        with start(queues=f"other{key}", env=env) as heir, start(queues=f"q{key}", env=env) as doomed:
            task.apply_async([key, 30], queue=f"q{key}")
            wait_start(key)
            yield doomed, heir

    return begun


def kill_main(worker: Worker) -> None:
    """Kill the main process and nothing else: on Linux its children die with it."""
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait(10)


KILLS = pytest.mark.parametrize("kill", [kill_main, Worker.kill], ids=["main process", "whole worker"])


def test_main_process_that_stands_still_loses_the_key_and_only_one_of_two_runs_commits(
    start: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    """Its child ends first and may not: whoever took over has the larger fence, and all calls get its result."""
    env = lease(LEASE_SECONDS) | SOON_BACK
    with start(queues=f"q{key}", env=env) as frozen:
        result = mortal.pay.apply_async([key, 8.0], queue=f"q{key}")
        wait_start(key)
        os.kill(frozen.pid, signal.SIGSTOP)
        with start(queues=f"q{key}", env=env, concurrency=2) as heir:
            wait_start(key, times=2, within=20)
            duplicate = mortal.pay.apply_async([key], queue=f"q{key}")
            assert duplicate.get(timeout=40) == result.get(timeout=60), heir.log()
            os.kill(frozen.pid, signal.SIGCONT)
            later = mortal.pay.apply_async([key], queue=f"q{key}").get(timeout=60)
    first, second = (entry["fence"] for entry in ledger(key, "start"))
    assert second > first
    assert [entry["fence"] for entry in ledger(key, "finish")] == [first, second], "the first was to end first"
    assert [duplicate.get(), result.get(), later] == [{"fence": second}] * 3


@KILLS
def test_lock_outlives_a_dead_main_process_by_its_lease(
    doomed_and_heir: DoomedAndHeir, ledger: Ledger, key: str, kill: Callable[[Worker], None]
) -> None:
    with doomed_and_heir(mortal.report) as (doomed, heir):
        kill(doomed)
        killed = time.time()  # noqa: TID251 - compared with what the tasks noted

        def runs() -> bool:
            mortal.report.apply_async([key], queue=f"other{key}").get(timeout=60, propagate=False)
            return len(ledger(key, "start")) > 1

        eventually(runs, every=0.1, within=20, what=heir.log)
    first, second = ledger(key, "start")
    assert second["fence"] > first["fence"]
    assert second["at"] - killed < LEASE_SECONDS + 5
    assert len(ledger(key, "finish")) == 1, "the dead one's child has not gone on"


@pytest.mark.parametrize("agent", [False, True], ids=["without agent", "with agent"])
def test_place_in_a_bulkhead_is_free_when_its_child_is_killed(
    start: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str, *, agent: bool
) -> None:
    """Long before the lease is over, which the next one would have to wait for otherwise."""
    with start(queues=f"q{key}", concurrency=2, env=lease(120), agent=agent) as worker:
        victim = mortal.export.apply_async([key, 60], queue=f"q{key}")
        pid = wait_start(key)["pid"]
        waits = mortal.export.apply_async([key], queue=f"q{key}")
        eventually(lambda: waits.state == "RETRY", what=worker.log)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            victim.get(timeout=60)
        assert waits.get(timeout=40) == {"fence": None}, worker.log()
        assert [entry["event"] for entry in ledger(key)] == ["start", "start", "finish"]


@KILLS
def test_place_in_a_bulkhead_outlives_a_dead_main_process_by_its_lease(
    doomed_and_heir: DoomedAndHeir, ledger: Ledger, key: str, kill: Callable[[Worker], None]
) -> None:
    with doomed_and_heir(mortal.export) as (doomed, heir):
        waits = mortal.export.apply_async([key], queue=f"other{key}")
        eventually(lambda: waits.state == "RETRY", what=heir.log)
        kill(doomed)
        assert waits.get(timeout=LEASE_SECONDS + 30) == {"fence": None}, heir.log()
        assert len(ledger(key, "start")) == 2, f"{ledger(key)}\n{heir.log()}"
