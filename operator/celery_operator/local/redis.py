"""A Redis for one run: private, on a loopback port, without persistence; gone when the run is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from celery_operator.local.node import tail
from celery_operator.local.process import GuardedProcess
from celery_operator.local.redis_program import NoRedisError, Say, find_server

LOOPBACK = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0
TRIES = 5
"""A free port may be taken by somebody else before the server binds it."""
POLL_SECONDS = 0.02


@asynccontextmanager
async def embedded_redis(directory: Path, say: Say) -> AsyncIterator[str]:
    """Yield ``redis://:PASSWORD@127.0.0.1:PORT`` of a server that runs as long as the block. Raises NoRedisError.

    The password keeps other users of the machine out: whoever may write to a broker may choose which tasks run.
    """
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one directory on a local disk
    command = await find_server(directory, say)
    password = secrets.token_urlsafe(24)
    process, port = await _start(command, directory, password)
    try:
        yield f"redis://:{password}@{LOOPBACK}:{port}"
    finally:
        await process.stop(STOP_SECONDS)


async def _start(command: list[str], directory: Path, password: str) -> tuple[GuardedProcess, int]:
    log = directory / "redis.log"
    for _ in range(TRIES):
        port = _free_port()
        config = _config(directory, port, password)
        process = await GuardedProcess.start([*command, "-"], log=log, env=os.environ, config=config)
        if await _answers(process, port, password):
            return process, port
        await process.stop(STOP_SECONDS)
    said = " / ".join(tail(log, 3))
    raise NoRedisError(f"{command[0]} did not start: {said}")


def _config(directory: Path, port: int, password: str) -> str:
    """Return the configuration; it goes to the server's standard input, so that no file and no argument shows it."""
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f'requirepass "{password}"',
        f'dir "{directory}"',
        'save ""',
        "appendonly no",
        "daemonize no",
        # A queue must never lose messages for want of memory: writes are refused instead.
        "maxmemory-policy noeviction",
        "databases 256",
    ]
    return "\n".join(lines) + "\n"


async def _answers(process: GuardedProcess, port: int, password: str) -> bool:
    """Wait until the server accepts the password; False if it ends or takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                if await _ping(port, password):
                    return True
                await asyncio.sleep(POLL_SECONDS)
    return False


async def _ping(port: int, password: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(f"AUTH {password}\r\nPING\r\n".encode())
        await writer.drain()
        return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
