"""What is left when a worker's process is killed in the middle of a task: who is locked out, and for how long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.patterns.apps.scene import LEDGER
from benchmarks.patterns.peers import PeersUnavailableError, install_batches, peer_versions, peers_python
from servers import RedisServer, Worker, eventually, redis_server, running

CHECKOUT = Path(__file__).parents[2]
APPS = "benchmarks.patterns.apps"
PATIENCE_SECONDS = 12.0
"""How long a caller tries again; longer than the lease of ours."""
READY_SECONDS = 60.0
ANSWER_SECONDS = 60.0
ROWS = 5

Killed = Literal["child", "worker"]
Say = Callable[[str], None]

SETTINGS = {False: "Celery's defaults", True: "acks_late, task_retry_on_worker_lost"}
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
                row = _lock(redis, library, module, interpreter, killed, late=late)
                say(f"{row.library}, SIGKILL of {row.killed}, {row.settings}: {row.outcome}")
                rows.append(row)
        if python is not None:
            rows.append(_batches_of_peer(python))
        rows.append(_batches(redis))
        for row in rows[-2:]:
            say(f"{row.library}: {row.outcome}")
    return rows


# ------------------------------------------------------------------------------------------------------- locks of a task


def _lock(redis: RedisServer, library: str, module: str, python: Path, killed: Killed, *, late: bool) -> Row:
    """Kill what runs the task that holds the lock, then call until another task is accepted."""
    environment = _environment(redis, late=late)
    key = f"{module}-{killed}-{late}"
    with _worker(python, module, environment) as worker:
        answer = _script(python, module, environment, "call", key, "60")
        task_id = str(answer["id"])
        pid = int(_start(redis, key, 1)["pid"])
        since = _kill(worker, pid, killed)
        if killed == "child":
            eventually(lambda: pid not in worker.children(), within=READY_SECONDS, what=worker.log)
            found = _again(redis, python, module, environment, key, task_id, since)
    if killed == "worker":
        with _worker(python, module, environment):
            found = _again(redis, python, module, environment, key, task_id, since)
    return Row(library, KILLED[killed], SETTINGS[late], _lock_outcome(found), found)


def _kill(worker: Worker, child: int, killed: Killed) -> float:
    """Kill, and return when."""
    since = time.time()  # noqa: TID251 - told to another process
    if killed == "child":
        os.kill(child, signal.SIGKILL)
    else:
        worker.kill()
    return since


def _again(
    redis: RedisServer, python: Path, module: str, environment: Mapping[str, str], key: str, dead: str, since: float
) -> dict[str, Any]:
    found = _script(python, module, environment, "again", key, dead, str(since), str(PATIENCE_SECONDS))
    if found["accepted"]:
        entry = eventually(
            lambda: next((e for e in _entries(redis, key) if e["id"] == found["id"]), None),
            within=READY_SECONDS,
            what=f"{found['id']} runs",
        )
        found["ran"] = entry["id"] == found["id"]
    return found


def _lock_outcome(found: Mapping[str, Any]) -> str:
    if found["accepted"]:
        return f"the next call is accepted {found['seconds']:.1f} s after the kill, and runs"
    lasts = ["for ever" if ttl < 0 else f"{ttl:,.0f} s more" for ttl in found["locks"].values()]
    return (
        f"calls are refused ({found['said']}) for all of the {found['seconds']:.0f} s they were tried; "
        f"the lock lasts {' and '.join(lasts) or 'no longer'}"
    )


# --------------------------------------------------------------------------------------------------------------- batches


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
    python, environment, table = Path(sys.executable), _environment(redis, late=False), "batch"
    with _worker(python, "ours", environment) as worker:
        command = [str(python), "-m", f"{APPS}.ours", "rows", table, str(ROWS), str(ANSWER_SECONDS)]
        with subprocess.Popen(
            command, env={**environment, "QUEUE": "ours"}, cwd=CHECKOUT, stdout=subprocess.PIPE
        ) as caller:
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
    return Row("celery-patterns batch_task", "the child that runs the batch", SETTINGS[False], outcome, measured)


# ------------------------------------------------------------------------------------------------- workers and callers


def _environment(redis: RedisServer, *, late: bool) -> dict[str, str]:
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
    }


@contextmanager
def _worker(python: Path, module: str, environment: Mapping[str, str]) -> Iterator[Worker]:
    """Start a worker with one slot."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        command = [str(python), "-m", "celery", "-A", f"{APPS}.{module}:app", "worker", "-c", "1", "-l", "INFO"]
        command += ["-n", f"{module}@localhost", "-Q", module, "--without-gossip", "--without-mingle"]
        env = {**environment, "QUEUE": module}
        with running(command, log=directory / "worker.log", env=env, cwd=directory) as process:
            worker = Worker(process=process, directory=directory, agent=False)
            eventually(lambda: process.poll() is not None or worker.ready(), within=READY_SECONDS, what=worker.log)
            if process.poll() is not None:
                raise AssertionError(f"the worker of {module} ended with {process.returncode}: {worker.log()[-2000:]}")
            yield worker


def _script(python: Path, module: str, environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Run a caller of an application; return what it prints."""
    command: Sequence[str] = [str(python), "-m", f"{APPS}.{module}", *arguments]
    done = subprocess.run(
        command,
        env=dict(environment) | {"QUEUE": module},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command[2:])} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _entries(redis: RedisServer, key: str) -> list[dict[str, Any]]:
    with redis.client(3) as client:
        entries: Any = client.lrange(LEDGER, 0, -1)
    return [entry for entry in map(json.loads, entries) if entry["key"] == key]


def _start(redis: RedisServer, key: str, number: int) -> dict[str, Any]:
    """Wait for the nth start of a key."""
    found = eventually(lambda: _entries(redis, key)[number - 1 :], within=READY_SECONDS, what=f"{key} starts")
    return found[0]
