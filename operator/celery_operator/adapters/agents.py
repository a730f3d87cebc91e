"""The agents inside workers, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Literal

import aiohttp

from celery_patterns.protocol import PATH_DRAIN, PATH_RESUME, PATH_STATE, WorkerState

ANSWER_SECONDS = 1.0
"""An agent answers within milliseconds from a thread of its own; one that does not is unknown, and asked again soon."""

AT_ONCE = 64
"""Questions under way. A thousand workers are asked in turn rather than with a thousand sockets."""

MAX_ANSWER_BYTES = 256 * 1024
"""A state is some 300 bytes and the counts by task; more is not an agent."""


class AiohttpWorkerAgents:
    """The port ``WorkerAgents``: every failure to answer is None.

    Args:
        answer_seconds: Bound of one question, the connection included; waiting for its turn is not part of it.
        at_once: Most questions under way.
    """

    def __init__(self, *, answer_seconds: float = ANSWER_SECONDS, at_once: int = AT_ONCE) -> None:
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self._turn = asyncio.Semaphore(at_once)
        self._session: aiohttp.ClientSession | None = None

    async def state(self, address: str) -> WorkerState | None:
        """See the port."""
        return await self._ask("GET", address, PATH_STATE)

    async def drain(self, address: str, token: str) -> WorkerState | None:
        """See the port."""
        return await self._ask("POST", address, PATH_DRAIN, token)

    async def resume(self, address: str, token: str) -> WorkerState | None:
        """See the port."""
        return await self._ask("POST", address, PATH_RESUME, token)

    async def _ask(
        self, method: Literal["GET", "POST"], address: str, path: str, token: str = ""
    ) -> WorkerState | None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._turn:
            try:
                async with self._open().request(
                    method, f"http://{address}{path}", headers=headers, timeout=self._timeout, allow_redirects=False
                ) as answer:
                    return await _state(answer)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
                return None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Idle connections would outlive pods by the hundred; a new one costs a fraction of a millisecond.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            # trust_env stays off: a proxy of the operator's has no business between it and its workers.
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _state(answer: aiohttp.ClientResponse) -> WorkerState | None:
    """Read an answer, no further than MAX_ANSWER_BYTES: users' own pods send it, and it may not say how long it is."""
    if answer.status != HTTPStatus.OK or answer.content_type != "application/json":
        return None
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            return None
    return WorkerState.from_json(json.loads(body))
