"""What is left when a worker's process is killed in the middle of a task: who is locked out, and for how long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.patterns.apps.scene import LEDGER
from benchmarks.patterns.peers import PeersUnavailableError, install_batches, peer_versions, peers_python
from benchmarks.patterns.programs import CHECKOUT, answer_of
from servers import RedisServer, Worker, eventually, redis_server, running

APPS = "benchmarks.patterns.apps"
Killed = Literal["child", "worker"]
PATIENCE_SECONDS = 15.0
"""How long a caller tries again. Celery takes up to five seconds to notice that a child has gone."""
LEASE_SECONDS: dict[Killed, float] = {"child": 30.0, "worker": 5.0}
"""Of ours. 30 is the default, which a killed child's task does not have to wait for; a killed worker's has to."""
READY_SECONDS = 60.0
ANSWER_SECONDS = 60.0
ROWS = 5

Say = Callable[[str], None]

SETTINGS = {False: "Celery's defaults", True: "task_acks_late, task_retry_on_worker_lost"}
KILLED: dict[Killed, str] = {"child": "the child that runs the task", "worker": "the worker, all its processes"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    library: str
    killed: str
    settings: str
    outcome: str
    measured: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the line as it stands in the file."""
        return {
            "library": self.library,
            "killed": self.killed,
            "settings": self.settings,
            "outcome": self.outcome,
            "measured": dict(self.measured),
        }


@dataclass(frozen=True, slots=True)
class _Subject:
    """A library, its application, and the interpreter that has it."""

    library: str
    module: str
    python: Path

    @property
    def command(self) -> list[str]:
        """The beginning of a caller's command line."""
        return [str(self.python), "-m", f"{APPS}.{self.module}"]


def measure_kills(say: Say, *, quick: bool) -> list[Row]:
    """Return the table; without the other libraries just our own lines, and why."""
    scenes: list[tuple[Killed, bool]] = [("child", False)]
    if not quick:
        scenes += [("child", True), ("worker", False)]
    subjects = [("celery-patterns Singleton", "ours", Path(sys.executable))]
    rows: list[Row] = []
    try:
        python = peers_python(say)
        subjects = [("celery-once", "once", python), ("celery-singleton", "singleton", python), *subjects]
    except PeersUnavailableError as error:
        python = None
        say(f"the other libraries cannot be installed, so they have no lines: {error}")
    with redis_server() as redis:
        for killed, late in scenes:
            for library, module, interpreter in subjects:
                row = _lock(redis, _Subject(library, module, interpreter), killed, late=late)
                say(f"{row.library}, SIGKILL of {row.killed}, {row.settings}: {row.outcome}")
                rows.append(row)
        if python is not None:
            rows.append(_batches_of_peer(python))
        rows.append(_batches(redis))
        for row in rows[-2:]:
            say(f"{row.library}: {row.outcome}")
    return rows


# ---- locks of a task


def _lock(redis: RedisServer, subject: _Subject, killed: Killed, *, late: bool) -> Row:
    """Kill what runs the task that holds the lock, then call until another task is accepted."""
    lease = LEASE_SECONDS[killed]
    environment = _environment(redis, subject, late=late, lease=lease)
    key = f"{subject.module}-{killed}-{late}"
    with redis.client(2) as locks:
        locks.flushdb()  # those of earlier lines
    with _worker(subject, environment) as worker:
        task_id = str(_script(subject, environment, "call", key, "60")["id"])
        pid = int(_start(redis, key, 1)["pid"])
        since = _kill(worker, pid, killed)
        again = ("again", key, task_id, str(since), str(PATIENCE_SECONDS))
        if killed == "child":
            eventually(lambda: pid not in worker.children(), within=READY_SECONDS, what=worker.log)
            found = _script(subject, environment, *again)
            _wait_for(redis, key, found)
    if killed == "worker":
        with _worker(subject, environment):
            found = _script(subject, environment, *again)
            _wait_for(redis, key, found)
    settings = SETTINGS[late] + (f"; lease {lease:.0f} s" if subject.module == "ours" else "")
    return Row(subject.library, KILLED[killed], settings, _lock_outcome(found), found)


def _kill(worker: Worker, child: int, killed: Killed) -> float:
    """Kill, and return when."""
    since = time.time()  # noqa: TID251 - told to another process
    if killed == "child":
        os.kill(child, signal.SIGKILL)
    else:
        worker.kill()
    return since


def _wait_for(redis: RedisServer, key: str, found: Mapping[str, Any]) -> None:
    """Wait until a call that was accepted runs, too."""
    if found["accepted"]:
        eventually(
            lambda: any(entry["id"] == found["id"] for entry in _entries(redis, key)),
            within=READY_SECONDS,
            what=f"{found['id']} runs",
        )


def _lock_outcome(found: Mapping[str, Any]) -> str:
    if found["accepted"]:
        return f"the next call is accepted {found['seconds']:.1f} s after the kill, and runs"
    lasts = ["for ever" if ttl < 0 else f"{ttl:,.0f} s more" for ttl in found["locks"].values()]
    return (
        f"calls are refused ({found['said']}) for all of the {found['seconds']:.0f} s they were tried; "
        f"the lock lasts {' and '.join(lasts) or 'no longer'}"
    )


# ---- batches


def _batches_of_peer(python: Path) -> Row:
    version = peer_versions()["celery-batches"]
    try:
        installs, said = install_batches(python)
    except PeersUnavailableError as error:
        installs, said = False, f"the installer could not ask: {error}"
    outcome = "it installs; not measured" if installs else f"does not install beside this Celery: {said}"
    return Row("celery-batches", "", "", outcome, {"version": version, "installs": installs, "said": said})


def _batches(redis: RedisServer) -> Row:
    """Kill the child that runs a batch; its items are to be done all the same."""
    subject, table = _Subject("celery-patterns batch_task", "ours", Path(sys.executable)), "batch"
    environment = _environment(redis, subject, late=False, lease=LEASE_SECONDS["child"])
    with _worker(subject, environment) as worker:
        command = [*subject.command, "rows", table, str(ROWS), str(ANSWER_SECONDS)]
        with subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE) as caller:
            try:
                since = _kill(worker, int(_start(redis, table, 1)["pid"]), "child")
                output, _ = caller.communicate(timeout=ANSWER_SECONDS * 2)
            finally:
                caller.kill()
        seconds = time.time() - since  # noqa: TID251 - as above
    states = json.loads(output)["states"]
    done = states.count("SUCCESS")
    outcome = f"{done} of {ROWS} items are done {seconds:.1f} s after the kill"
    measured = {"states": states, "seconds": round(seconds, 2)}
    return Row(subject.library, "the child that runs the batch", SETTINGS[False], outcome, measured)


# ---- workers and callers


def _environment(redis: RedisServer, subject: _Subject, *, late: bool, lease: float) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **inherited,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "CELERY_BROKER_URL": redis.url(0),
        "CELERY_RESULT_BACKEND": redis.url(1),
        "LOCKS_URL": redis.url(2),
        "LEDGER_URL": redis.url(3),
        "LATE": str(int(late)),
        "LEASE": str(lease),
        "QUEUE": subject.module,
    }


@contextmanager
def _worker(subject: _Subject, environment: Mapping[str, str]) -> Iterator[Worker]:
    """Start a worker with one slot."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        module = subject.module
        command = [str(subject.python), "-m", "celery", "-A", f"{APPS}.{module}:app", "worker", "-c", "1", "-l", "INFO"]
        command += ["-n", f"{module}@localhost", "-Q", module, "--without-gossip", "--without-mingle"]
        with running(command, log=directory / "worker.log", env=environment, cwd=directory) as process:
            worker = Worker(process=process, directory=directory, agent=False)
            eventually(lambda: process.poll() is not None or worker.ready(), within=READY_SECONDS, what=worker.log)
            if process.poll() is not None:
                raise AssertionError(f"the worker of {module} ended with {process.returncode}: {worker.log()[-2000:]}")
            yield worker


def _script(subject: _Subject, environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Run a caller of an application; return what it prints."""
    return answer_of([*subject.command, *arguments], environment, within=ANSWER_SECONDS)


def _entries(redis: RedisServer, key: str) -> list[dict[str, Any]]:
    with redis.client(3) as client:
        entries: Any = client.lrange(LEDGER, 0, -1)
    return [entry for entry in map(json.loads, entries) if entry["key"] == key]


def _start(redis: RedisServer, key: str, number: int) -> dict[str, Any]:
    """Wait for the nth start of a key."""
    found = eventually(lambda: _entries(redis, key)[number - 1 :], within=READY_SECONDS, what=f"{key} starts")
    return found[0]
