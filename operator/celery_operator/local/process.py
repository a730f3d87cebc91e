"""One guarded child process: it and all it starts are gone when it is stopped, or when this process is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from celery_operator.local import guard

GUARD = str(Path(guard.__file__))
KILL_SECONDS = 10.0
"""How long the kernel may take to end what was killed; only uninterruptible I/O needs more than milliseconds."""


class GuardedProcess:
    """A command under ``guard.py``. Its standard output and error go to a file, its standard input is empty."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self._process = process
        self._lifeline: int | None = lifeline

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
        config: str | None = None,
    ) -> GuardedProcess:
        """Start a command; ``config`` is what it reads from its standard input. Raises OSError if there is no Python.

        A command that does not exist ends at once with status 127 and a line in the log.
        """
        read_end, lifeline = os.pipe()
        try:
            with log.open("ab") as out:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", GUARD, str(read_end), *command),
                    stdin=asyncio.subprocess.DEVNULL if config is None else asyncio.subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    env=dict(env),
                    cwd=cwd,
                    pass_fds=(read_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(read_end)
        if config is not None and process.stdin is not None:
            process.stdin.write(config.encode())
            process.stdin.close()
        return cls(process, lifeline)

    @property
    def pid(self) -> int:
        """The guard's pid; the command is its child."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; else its exit status, 128 + the signal that ended it."""
        return self._process.returncode

    def terminate(self) -> None:
        """Ask the command to end (SIGTERM); nothing happens if it has."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the command and all its descendants; returns before they are gone: see ``wait``."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def wait(self) -> int:
        """Wait until the command and all its descendants are gone; return its exit status."""
        status = await self._process.wait()
        if status < 0:  # the guard itself was killed: what it watched is left in its process group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.kill()
        return status

    async def stop(self, within: float) -> int:
        """SIGTERM, and after ``within`` seconds SIGKILL; return the exit status when all are gone."""
        self.terminate()
        try:
            async with asyncio.timeout(within):
                return await self.wait()
        except TimeoutError:
            self.kill()
        async with asyncio.timeout(KILL_SECONDS):
            return await self.wait()
