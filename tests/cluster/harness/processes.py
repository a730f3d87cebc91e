"""Long-running programs: started in their own sessions, remembered by pid and start time, ended within a bound."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from harness.waiting import became_true


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for another one.

    Attributes:
        name: What the harness calls it.
        pid: Its process id, which the kernel gives to another process some time after it ended.
        started: Its start in clock ticks since boot, which that other process cannot share.
    """

    name: str
    pid: int
    started: int

    def alive(self) -> bool:
        """Say whether it still runs; a zombie does not."""
        return _start_time(self.pid) == self.started


def _start_time(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def identify(name: str, pid: int) -> Process | None:
    """Return the process that has this pid now, or None if there is none."""
    started = _start_time(pid)
    return None if started is None else Process(name, pid, started)


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    keep_open: Collection[int] = (),
) -> Process:
    """Start a program that outlives the harness.

    Args:
        name: What the harness calls it.
        command: The program with its arguments.
        log: Receives both of its outputs; replaced if it exists.
        environment: Its whole environment; None for the harness's own.
        keep_open: File descriptors that it inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
            env=environment,
            cwd="/",
        )
    # The child is never waited for here; a child that ends at once is still there, as a zombie, to be found dead later.
    return identify(name, child.pid) or Process(name, child.pid, -1)


class ProcessRecord:
    """The processes of a node, in a file that is up to date after every start: a harness that is killed leaves it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Process, ...]:
        """Return the recorded processes, dead ones included; none if there is no record."""
        try:
            return tuple(Process(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()

    def add(self, process: Process) -> None:
        """Remember one more process."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(each) for each in (*self.read(), process)], indent=2)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._path)


def end(processes: Iterable[Process], *, grace: timedelta) -> None:
    """End processes: politely first, by force when the grace is over. Dead ones are passed over."""
    doomed = [process for process in processes if process.alive()]
    _signal(doomed, signal.SIGTERM)
    if not became_true(lambda: not any(process.alive() for process in doomed), within=grace):
        _signal(doomed, signal.SIGKILL)
        became_true(lambda: not any(process.alive() for process in doomed), within=timedelta(seconds=5))


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
