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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
"""How long a Redis or a worker may take until it answers; a loaded two-core machine needs a few seconds."""
STOP_SECONDS = 10.0
"""How long a process may take to end by itself before it is killed."""


def eventually(
    check: Callable[[], T], *, within: float = 10.0, every: float = 0.02, what: str | Callable[[], str] = ""
) -> T:
    """Call ``check`` until it returns something true, and return that.

    Raises AssertionError with ``what`` (or the last exception ``check`` raised) after ``within`` seconds.
    """
    deadline = time.monotonic() + within  # noqa: TID251 - the deadline of a real process is real time
    last: Any = None
    while True:
        try:
            answer = check()
            if answer:
                return answer
            last = answer
        except Exception as error:  # noqa: BLE001 - the reason is in the message if the deadline passes
            last = error
        if time.monotonic() >= deadline:  # noqa: TID251 - see above
            said = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {said or check}; last seen: {last!r}")
        time.sleep(every)


def free_port() -> int:
    """Return a loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


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
