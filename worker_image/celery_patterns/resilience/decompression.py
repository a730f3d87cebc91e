"""Compressed messages, decompressed within bounds: some kilobytes can become gigabytes.

kombu decompresses a body before anybody can look at it, and as far as it goes. Here its decoders stop at the size that
a message may have.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from kombu import compression


class OversizedMessage(ValueError):  # noqa: N818 - it says what the message is
    """A message is larger than this worker takes."""


DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}
"""kombu's content types -> what decompresses step by step. The others (brotli, zstd) need packages of their own."""


def install(limit: int) -> None:
    """Bound kombu's decoders in this process to ``limit`` bytes."""
    for kind, make in DECOMPRESSORS.items():
        encoder, _ = compression.get_encoder(kind)  # type: ignore[no-untyped-call]
        compression.register(encoder, bounded(make, limit), kind)  # type: ignore[no-untyped-call]


def bounded(make: Callable[[], Any], limit: int) -> Callable[[bytes | str], bytes]:
    """Return a decoder that gives up beyond ``limit`` bytes.

    The decoder raises OversizedMessage then, ValueError for a body that is cut off, and what the format's library
    raises for one that is damaged.
    """

    def decompress(body: bytes | str) -> bytes:
        decompressor = make()
        body = body.encode() if isinstance(body, str) else body  # a text, where an AMQP body happens to be one
        text: bytes = decompressor.decompress(body, limit + 1)
        if len(text) > limit:
            raise OversizedMessage(too_large(f"more than {limit} bytes decompressed", limit))
        if not decompressor.eof:
            raise ValueError(f"its compressed body ends too early, after {len(body)} bytes")
        return text

    return decompress


def decompress(body: bytes | str, kind: Any, limit: int) -> bytes:
    """Decompress a body outside of a worker, where kombu's decoders are as they were.

    Args:
        body: As it came.
        kind: kombu's content type or short name of the compression, from the message's header.
        limit: Most bytes of the result.

    Raises:
        OversizedMessage: If it becomes larger.
        ValueError: If it is damaged or cut off, or nothing here decompresses it.
    """
    try:
        decoder = compression.get_decoder(kind)  # type: ignore[no-untyped-call]
        _, content_type = compression.get_encoder(kind)  # type: ignore[no-untyped-call]
    except (LookupError, TypeError):
        raise ValueError(f"there is no decompressor for {kind!r}") from None
    make = DECOMPRESSORS.get(content_type)
    try:
        text: bytes = decoder(body) if make is None else bounded(make, limit)(body)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(f"its compressed body is damaged: {error}") from error
    return text


def too_large(size: str, limit: int) -> str:
    """Return what is said of a message that is too large."""
    return (
        f"{size}, which is more than {limit} (patterns_max_message_bytes): store large arguments apart, "
        "with the policy PayloadLimit"
    )
