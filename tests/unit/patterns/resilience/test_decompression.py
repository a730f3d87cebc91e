"""A compressed message is decompressed up to the size that a message may have, and no further."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.compression import get_encoder

from celery_patterns.resilience.decompression import DECOMPRESSORS, OversizedMessage, bounded

LIMIT = 10_000


@pytest.fixture(params=sorted(DECOMPRESSORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def compressed(kind: str, text: bytes) -> bytes:
    encode: Any = get_encoder(kind)[0]  # type: ignore[no-untyped-call]
    return bytes(encode(text))


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_what_kombu_compressed_comes_back(kind: str, size: int) -> None:
    assert bounded(DECOMPRESSORS[kind], LIMIT)(compressed(kind, b"x" * size)) == b"x" * size


@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_beyond_the_limit_it_ends(kind: str, size: int) -> None:
    body = compressed(kind, b"x" * size)
    assert len(body) < size / 50
    with pytest.raises(OversizedMessage, match=r"more than 10000 bytes.*patterns_max_message_bytes.*PayloadLimit"):
        bounded(DECOMPRESSORS[kind], LIMIT)(body)


def test_body_that_was_cut_off_is_an_error(kind: str) -> None:
    body = compressed(kind, bytes(range(256)) * 4)
    with pytest.raises(ValueError, match="its compressed body ends too early"):
        bounded(DECOMPRESSORS[kind], LIMIT)(body[: len(body) // 2])
