"""Packs one small number for each item of a fan-out into text, without a Python loop over the items."""

from __future__ import annotations

import base64
import binascii
import zlib

_PER_BYTE = 4
_QUICK = 1
"""zlib's fastest level: neighbours are mostly equal, so that better ones gain little."""

_UNPACKED = tuple(bytes((byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6 & 3)) for byte in range(256))


def pack(codes: bytes) -> bytes:
    """Return codes (each 0 to 3) four to a byte, the first in the lowest bits."""
    length = -(-len(codes) // _PER_BYTE)
    padded = codes.ljust(length * _PER_BYTE, b"\0")
    packed = 0
    for place in range(_PER_BYTE):
        packed |= int.from_bytes(padded[place::_PER_BYTE], "little") << (2 * place)
    return packed.to_bytes(length, "little")


def unpack(packed: bytes, count: int) -> bytes:
    """Return the first ``count`` codes that ``pack`` was given."""
    return b"".join([_UNPACKED[byte] for byte in packed])[:count]


def to_text(body: bytes) -> str:
    """Return bytes as compressed base64."""
    return base64.b64encode(zlib.compress(body, _QUICK)).decode()


def from_text(text: str, length: int) -> bytes:
    """Return the bytes of ``to_text``. Raises ValueError if they are damaged or not of this length."""
    try:
        inflate = zlib.decompressobj()
        body = inflate.decompress(base64.b64decode(text, validate=True), length + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the packed states cannot be read: {error}") from error
    if len(body) != length:
        raise ValueError(f"expected {length} bytes of packed states, found {len(body)}{'+' * (len(body) > length)}")
    return body
