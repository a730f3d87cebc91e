"""Waiting for facts in asynchronous tests, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from servers_process import PATIENCE

T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], *, within: float = 15.0, what: Callable[[], str] = str) -> T:
    """Ask again and again until the answer is true, and return it; AssertionError with ``what()`` after that long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE * within
    while not (answer := await ask()):
        assert loop.time() < deadline, f"not within {PATIENCE} times {within:g} s; last answer {answer!r}; {what()}"
        await asyncio.sleep(0.02)
    return answer
