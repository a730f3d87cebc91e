"""Nothing that was started outlives the process that asked for it, however that process ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from celery_operator.local.process import GuardedProcess
from local.support import gone, until

PARENT = """
import asyncio, os, sys
from pathlib import Path
from celery_operator.local.process import GuardedProcess

async def main():
    script = "cd " + sys.argv[1] + ";"
    script += "setsid sleep 600 & echo $! > away; sleep 601 & echo $! > near; echo $$ > shell; wait"
    command = ["sh", "-c", script]
    process = await GuardedProcess.start(command, log=Path(sys.argv[1]) / "log", env=os.environ)
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""


def pids(directory: Path) -> list[int]:
    files = [directory / name for name in ("away", "near", "shell")]
    return [int(file.read_text()) for file in files if file.exists() and file.read_text().strip()]


async def test_sigkill_of_the_parent_leaves_no_process(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(tmp_path), stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        guard = int(await parent.stdout.readline())
        await until(lambda: len(pids(tmp_path)) == 3)
        started = [guard, *pids(tmp_path)]
        assert [pid for pid in started if gone(pid)] == []
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: all(gone(pid) for pid in started))


async def test_sigkill_of_the_guard_leaves_no_process_group(tmp_path: Path) -> None:
    command = ["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/near; echo $$ > {tmp_path}/shell; wait"]
    process = await GuardedProcess.start(command, log=tmp_path / "log", env=os.environ)
    await until(lambda: len(pids(tmp_path)) == 2)
    started = pids(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await until(lambda: all(gone(pid) for pid in started))


async def test_the_commands_status_is_the_guards(tmp_path: Path) -> None:
    async def status(*command: str) -> int:
        process = await GuardedProcess.start(command, log=tmp_path / "log", env=os.environ)
        return await process.wait()

    assert await status("sh", "-c", "exit 7") == 7
    assert await status("sh", "-c", "kill -SEGV $$") == 128 + signal.SIGSEGV
    assert await status("no-such-command") == 127
    assert (tmp_path / "log").read_text() == "cannot start no-such-command: No such file or directory\n"


async def test_stop_asks_first_and_kills_after_the_time_is_over(tmp_path: Path) -> None:
    polite = 'trap "echo asked; exit 0" TERM; echo up; while :; do sleep 0.05; done'
    process = await GuardedProcess.start(["sh", "-c", polite], log=tmp_path / "polite", env=os.environ)
    await until(lambda: "up" in (tmp_path / "polite").read_text())
    assert await process.stop(5) == 0
    assert (tmp_path / "polite").read_text() == "up\nasked\n"
    deaf = 'trap "" TERM; echo up; while :; do sleep 0.05; done'
    process = await GuardedProcess.start(["sh", "-c", deaf], log=tmp_path / "deaf", env=os.environ)
    await until(lambda: "up" in (tmp_path / "deaf").read_text())
    assert await process.stop(0.2) == 128 + signal.SIGKILL


async def test_a_config_reaches_the_standard_input_and_nothing_else(tmp_path: Path) -> None:
    process = await GuardedProcess.start(["cat"], log=tmp_path / "log", env=os.environ, config="secret\n")
    assert await process.wait() == 0
    assert (tmp_path / "log").read_text() == "secret\n"
