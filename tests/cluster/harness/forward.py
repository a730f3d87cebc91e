"""Carry connections from the host's loopback into the node's network namespace.

A program of its own: the harness opens the listening socket on the host and starts this inside the namespace, where the
inherited socket goes on listening on the host while every new connection is made inside.
"""

from __future__ import annotations

import asyncio
import socket
import sys

_CHUNK = 1 << 16


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, and pass that end on: the other direction may still have something to say."""
    try:
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        # One side is gone without a goodbye, and whoever waits at the other one has to hear of it.
        sink.transport.abort()


async def _carry(host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection(host, port)
    except OSError:
        # Nobody listens there (yet): the caller sees its connection end, as it would without this program.
        writer.close()
        return
    try:
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    finally:
        for each in (writer, inner_writer):
            each.close()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Carry every connection that the listener accepts to a port, until cancelled."""
    server = await asyncio.start_server(lambda reader, writer: _carry(host, port, reader, writer), sock=listener)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    descriptor, target_host, target_port = sys.argv[1:]
    asyncio.run(serve(socket.socket(fileno=int(descriptor)), target_host, int(target_port)))
