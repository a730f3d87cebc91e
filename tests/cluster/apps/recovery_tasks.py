"""Tasks that kill what runs them, and tasks with policies: mounted into workers beside the example application."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery.signals import worker_init

from celery_patterns.examples import ledger
from celery_patterns.examples.app import app
from celery_patterns.tasks import Idempotent, Singleton, install

install(app)
app.conf.update(patterns_dead_letters="all")

DIE = signal.SIGRTMIN
"""The kernel lets no process of a container kill its first one. So that has a signal on which it ends at once, and
everything else in the container with it, as when the container runs out of memory."""
OUT_OF_MEMORY = 137


@worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
def _be_mortal(**_: object) -> None:
    signal.signal(DIE, lambda *_: os._exit(OUT_OF_MEMORY))


def _record(task: Any, key: str, seconds: float) -> str:
    ledger._write(task, key, "start")
    time.sleep(seconds)
    ledger._write(task, key, "finish")
    return key


@app.task(bind=True, name="recovery.kill_container")  # type: ignore[untyped-decorator]
def kill_container(self: Any, key: str, kill: bool = True) -> str:  # noqa: FBT001, FBT002 - it comes as JSON
    """Kill the whole container, unless told not to."""
    ledger._write(self, key, "start")
    if kill:
        os.kill(os.getppid(), DIE)
        time.sleep(60)
    ledger._write(self, key, "finish")
    return key


@app.task(  # type: ignore[untyped-decorator]
    bind=True, name="recovery.kill_process", max_retries=2, default_retry_delay=0, retry_on_worker_lost=True
)
def kill_process(self: Any, key: str) -> None:
    """Kill the process that runs it, whatever the attempt."""
    ledger._write(self, key, "start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.pattern_task(  # type: ignore[untyped-decorator]
    bind=True, name="recovery.alone", single=Singleton(key="{key}", on_duplicate="coalesce")
)
def alone(self: Any, key: str, seconds: float) -> str:
    """Run while no other call with the key does."""
    return _record(self, key, seconds)


@app.pattern_task(bind=True, name="recovery.once", once=Idempotent(key="{key}"))  # type: ignore[untyped-decorator]
def once(self: Any, key: str, seconds: float) -> str:
    """Run once for each key; returns who did."""
    _record(self, key, seconds)
    return str(self.request.id)
