"""Blocking broker libraries, kept off the event loop: one thread, one call at a time, bounded, errors mapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from celery_operator.adapters.asking import ANSWER_SECONDS, explain
from celery_operator.domain.errors import BrokerError
from celery_patterns.protocol import mask_url

T = TypeVar("T")

CALL_SECONDS = ANSWER_SECONDS + 0.5
"""For one short call. The sockets have their own, shorter limits; this one holds if calls queue behind a slow one."""


class BlockingCalls:
    """One thread for the blocking calls of one connection; clients of AMQP are not safe in several.

    Args:
        url: The broker, named in messages without its credentials.
        name: Of the thread.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"broker-{name}")

    async def run(self, what: str, call: Callable[[], T], *, seconds: float | None = CALL_SECONDS) -> T:
        """Run the call in the thread and return its value.

        Args:
            what: What is tried, for messages.
            call: Bounded by its own sockets' timeouts.
            seconds: Longest wait for the answer; None leaves it to the sockets' timeouts.

        Raises BrokerError.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            limit = "in time" if seconds is None else f"within {seconds:g} s"
            text = f"cannot {what} at {mask_url(self._url)}: no answer {limit}"
            raise BrokerError(text) from error
        except (AMQPError, KombuError, RedisError, OSError) as error:
            raise BrokerError(*explain(self._url, what, error)) from error

    async def close(self, last: Callable[[], object] | None = None) -> None:
        """Run a last call (closing connections; what it raises does not matter any more) and end the thread."""
        if last is not None:
            future = asyncio.get_running_loop().run_in_executor(self._executor, last)
            done, _ = await asyncio.wait({future}, timeout=CALL_SECONDS)
            for finished in done:
                finished.exception()
        self._executor.shutdown(wait=False, cancel_futures=True)
