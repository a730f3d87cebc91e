"""Running programs that end by themselves."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from harness.errors import HarnessError
from harness.waiting import Stopwatch, tail


def run(
    command: Sequence[str],
    *,
    within: timedelta = timedelta(seconds=60),
    stdin: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a short command and return its standard output.

    Args:
        command: The program with its arguments.
        within: It is killed after this time.
        stdin: What it reads; nothing if None.
        folder: Where it runs.
        environment: Its whole environment; None for the harness's own.

    Raises:
        HarnessError: It is missing, failed, or did not end in time; the message holds its own words.
    """
    try:
        result = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=within.total_seconds(),
            check=False,
            cwd=folder,
            env=environment,
        )
    except FileNotFoundError as error:
        raise HarnessError(f"The program {command[0]!r} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"Not finished after {within.total_seconds():.0f} s: {shlex.join(command)}") from error
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip()
        raise HarnessError(f"Failed with exit code {result.returncode}: {shlex.join(command)}\n{words}")
    return result.stdout


def succeeds(
    command: Sequence[str],
    *,
    within: timedelta = timedelta(seconds=60),
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Say whether a short command is there, ends in time and succeeds."""
    try:
        run(command, within=within, environment=environment)
    except HarnessError:
        return False
    return True


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    within: timedelta,
    on_line: Callable[[str | None], None],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a long command, its output going to a log and, line by line, to a callback.

    Args:
        command: The program with its arguments.
        log: Receives both outputs; replaced if it exists.
        within: It is killed after this time.
        on_line: Called with each line, and with None once a second while there is none.
        folder: Where it runs.
        environment: Added to the harness's own.

    Raises:
        HarnessError: It is missing, failed, or did not end in time; the message names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    shown = shlex.join(command) if len(command) < 12 else f"{command[0]} {command[1]} ..."
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            text=True,
            errors="replace",
            # A group of its own, so that what it starts can be ended with it.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise HarnessError(f"The program {command[0]!r} is not installed.") from error
    with child, log.open("w", encoding="utf-8") as sink:
        try:
            in_time = _relay(child, sink, on_line, within)
        except BaseException:
            _kill_with_children(child)
            raise
        if not in_time:
            _kill_with_children(child)
    if not in_time:
        raise HarnessError(f"Not finished after {within.total_seconds():.0f} s: {shown}\nSee {log}{tail(log)}")
    if child.returncode != 0:
        raise HarnessError(f"Failed with exit code {child.returncode}: {shown}\nSee {log}{tail(log, 15)}")


def _relay(
    child: subprocess.Popen[str], sink: IO[str], on_line: Callable[[str | None], None], within: timedelta
) -> bool:
    """Pass the child's output on until it ends; return False if it did not end in time."""
    watch = Stopwatch()
    for line in _lines(child):
        if line is not None:
            sink.write(line)
            sink.flush()
        on_line(line.rstrip() if line is not None else None)
        if watch.elapsed() > within:
            return False
    return True


def _kill_with_children(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _lines(child: subprocess.Popen[str]) -> Iterator[str | None]:
    """Yield the child's lines, and None after every second without one, until its output ends."""
    queue: SimpleQueue[str | None] = SimpleQueue()
    output = child.stdout
    if output is None:
        return

    def pump() -> None:
        for line in output:
            queue.put(line)
        queue.put(None)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = queue.get(timeout=1)
        except Empty:
            yield None
            continue
        if line is None:
            return
        yield line
