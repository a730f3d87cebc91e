"""Headers that follow a body are found again, and nothing else is taken for them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns.resilience.letter_headers import BEHIND, fit, restore, write_table
from celery_patterns.resilience.letters import OriginalMessage

FRAME = 8_192
"""Bytes; 4,096 is the least that two ends may agree on."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=60), inner),
    max_leaves=5,
)


def message(body: bytes, headers: dict[str, Any]) -> OriginalMessage:
    return OriginalMessage(body, headers, {"priority": 3}, "application/json", "utf-8")


@given(st.binary(), st.dictionaries(st.text(max_size=60), VALUES, min_size=1, max_size=3), st.integers(0, 2 * FRAME))
def test_what_was_written_is_read(body: bytes, some: dict[str, Any], size: int) -> None:
    headers = {**some, "mine": "x" * size}
    table = write_table(headers)
    put, shown = fit(body, headers, table, FRAME)
    if len(table) < FRAME - 1_100:
        assert (put, shown) == (body, headers)
    if len(table) > FRAME:
        assert (put, shown) == (body + table, {BEHIND: len(table)})
    assert restore(message(put, shown)) == message(body, headers)


TABLE = write_table({"task": "t"})


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (b"body", None),
        (b"body" + TABLE, "16"),
        (b"body" + TABLE, 0),
        (b"body" + TABLE, -len(TABLE)),
        (TABLE, len(TABLE) + 1),
        (b"body" + TABLE, len(TABLE) + 1),
        (b"body" + TABLE, len(TABLE) - 1),
        (b"body" + TABLE + b"more", len(TABLE) + 4),
        (b"\x00\x00\x00\x03\x01\xffS", 7),
        (b"\x00\x00\x00\x05\x01aS\xff\xff", 9),
        (b"\x00\x00\x00\x03\x01a?", 7),
        (b"\x00\x00\x00\x0b\x01aT" + b"\xff" * 8, 15),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_what_only_looks_like_it_stays_as_it_is(body: bytes, size: object) -> None:
    """Anybody may write to the queue, and who lists its letters is to see the others."""
    found = message(body, {BEHIND: size} if size is not None else {"task": "t"})
    assert restore(found) == found


@given(st.binary(min_size=1, max_size=200), st.data())
def test_no_garbage_raises(body: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(body)))
    assert restore(message(body, {BEHIND: size})).content_type == "application/json"
