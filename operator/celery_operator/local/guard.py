"""Runs one command and takes everything it started with it when it ends, or when the process that asked for it is gone.

Started by path with ``python -I -S``, so it may import only the standard library::

    guard.py LIFELINE COMMAND…

``LIFELINE`` is the read end of a pipe whose other end only the asking process holds. However that process ends (SIGKILL
included), the kernel closes its end; the guard sees it and kills the command with all its descendants. As a child
subreaper it inherits the descendants whose parents died first, so none can slip away, not even by a session of its own.

SIGTERM, SIGINT, SIGQUIT, SIGHUP and SIGUSR1 are passed on to the command (not to its children: what a signal means is
the command's business). The exit status is the command's, or 128 + the signal that ended it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
NOT_FOUND = 127
"""What shells answer when a command does not exist."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Return the direct children of a process, as /proc shows them now."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except OSError:
            continue
        # The command's name stands in parentheses and may itself hold any character; the fields after it cannot.
        if int(stat.rpartition(b")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def sweep() -> None:
    """Kill all descendants and wait until there are none: those of a killed child become children of this process."""
    while True:
        mine = children(os.getpid())
        for pid in mine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in mine:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue
        if not mine:
            return


def start(command: list[str]) -> int:
    """Start the command, bound to this process' life; return its pid."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # the guard died before the line above could take effect
        os._exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - a shell would be one process more that swallows signals
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND)


def reap(command: int) -> int | None:
    """Collect children that ended; return the command's exit status if it is among them."""
    status = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == command:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def main() -> int:
    """Run the command until it ends or the lifeline does."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(lifeline, False)  # noqa: FBT003 - positional-only
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for caught in (*FORWARDED, signal.SIGCHLD):
        signal.signal(caught, lambda *_: None)
    pid = start(command)
    while True:
        readable, _, _ = select.select([lifeline, wake], [], [])
        if lifeline in readable:
            sweep()
            return 128 + signal.SIGKILL
        for number in os.read(wake, 512):
            if number == signal.SIGCHLD:
                status = reap(pid)
                if status is not None:
                    sweep()
                    return status
            else:
                os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
