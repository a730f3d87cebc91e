import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from harness.forward import serve


@contextlib.asynccontextmanager
async def _forwarding_to(port: int) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(serve(listener, "127.0.0.1", port))
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _answer_when_all_is_said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    said = await reader.read()
    writer.write(said[::-1])
    writer.close()


async def test_the_end_of_what_a_client_says_reaches_the_server_and_the_answer_comes_back() -> None:
    server = await asyncio.start_server(_answer_when_all_is_said, "127.0.0.1", 0)
    async with server, asyncio.timeout(10), _forwarding_to(server.sockets[0].getsockname()[1]) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"stressed" * 50_000)
        writer.write_eof()
        assert await reader.read() == b"desserts" * 50_000
        writer.close()
        await writer.wait_closed()


async def test_a_connection_ends_at_once_when_nobody_listens_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port_of_nobody = unused.getsockname()[1]
    async with asyncio.timeout(10), _forwarding_to(port_of_nobody) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
