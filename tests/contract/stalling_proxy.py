"""A connection that dies without a word: nothing is refused, nothing is closed, nothing comes any more."""

from __future__ import annotations

import asyncio
from typing import Self

from servers import LOOPBACK


class Proxy:
    """Passes bytes between clients and a Redis until it is told to swallow them."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.stalled: list[bool] = []
        self.port = 0
        self.opened = 0
        self._opened_when_stalled = 0
        self._up = b""

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def has_new_connection(self) -> bool:
        return self.opened > 1

    async def has_passed(self, word: bytes, times: int) -> bool:
        return self._up.count(word) >= times

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self._target)
        for source, sink, up in ((reader, up_writer, True), (up_reader, writer, False)):
            task = asyncio.create_task(self._pass(source, sink, up=up))
            self._tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await source.read(65536):
                if up:
                    self._up += data
                if not self.stalled:
                    sink.write(data)
        finally:
            sink.close()
