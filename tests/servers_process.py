"""Processes that a test starts, and waiting for what they do: never longer than a deadline, never by sleeping alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
"""How long a Redis or a worker may take until it answers; a loaded two-core machine needs a few seconds."""
STOP_SECONDS = 10.0
"""How long a process may take to end by itself before it is killed."""

FIRST_PORT, PORTS_OF_A_WORKER, MOST_WORKERS = 10_000, 1_000, 20
"""Where servers listen: below the ports that kernels give to connections (from 32768 on Linux), of which one may
take a server's between its choice and the server's start; and each of the processes of a test run in ports of its
own. They end below the NodePorts of Kubernetes (from 30000)."""


class ProcessEndedError(RuntimeError):
    """A process that a test waits for has ended: waiting longer is in vain."""


PATIENCE = 3
"""How much slower than the machine on which the tests were written another may be: only a failure takes so long."""


def eventually(
    check: Callable[[], T], *, within: float = 10.0, every: float = 0.02, what: str | Callable[[], str] = ""
) -> T:
    """Call ``check`` until it returns something true, and return that.

    ``within`` is what it may take in seconds on a machine of today with nothing else to do; a slow or busy one is given
    ``PATIENCE`` times as long. Raises AssertionError with ``what`` (or the last exception ``check`` raised) after that,
    and a ProcessEndedError of ``check`` at once.
    """
    deadline = time.monotonic() + PATIENCE * within  # noqa: TID251 - the deadline of a real process is real time
    last: Any = None
    while True:
        try:
            answer = check()
            if answer:
                return answer
            last = answer
        except ProcessEndedError:
            raise
        except Exception as error:  # noqa: BLE001 - the reason is in the message if the deadline passes
            last = error
        if time.monotonic() >= deadline:  # noqa: TID251 - see above
            said = what() if callable(what) else what
            raise AssertionError(f"not within {PATIENCE} times {within:g} s: {said or check}; last seen: {last!r}")
        time.sleep(every)


def free_port() -> int:
    """Return a loopback port on which nothing listens, and that no other process of this test run is given."""
    for _ in range(PORTS_OF_A_WORKER):
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise RuntimeError(f"all of {PORTS_OF_A_WORKER} ports are in use")


def own_ports() -> Iterator[int]:
    """Walk this process's ports again and again, from a different one in each run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % MOST_WORKERS
    own = range(FIRST_PORT + worker * PORTS_OF_A_WORKER, FIRST_PORT + (worker + 1) * PORTS_OF_A_WORKER)
    start = os.getpid() % PORTS_OF_A_WORKER
    return cycle([*own[start:], *own[:start]])


_ports = own_ports()


def must_run(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise a ProcessEndedError with what the process has said if it has ended."""
    if process.poll() is not None:
        said = log.read_text(errors="replace")
        raise ProcessEndedError(f"{process.args!r} ended with {process.returncode}: {said or 'it said nothing'}")


@contextmanager
def running(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, its output appended to ``log``; end it and all it started.

    The kernel kills it, too, if the test process dies without cleaning up (only where the main thread starts it,
    since the kernel watches the thread).
    """
    tied = ["setpriv", "--pdeathsig", "KILL"] if _can_tie() else []
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*tied, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _can_tie() -> bool:
    return shutil.which("setpriv") is not None and threading.current_thread() is threading.main_thread()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever is left of its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    kill_session(process.pid)
    process.wait(STOP_SECONDS)


def kill_session(pid: int) -> None:
    """SIGKILL all processes of a session, or none if it is gone."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
