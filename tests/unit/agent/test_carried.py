"""What travels between a task's process and the main one."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns import protocol
from celery_patterns.agent.carried import CarriedResult, DuplicateDropped, StoreUnavailable, encode_small

LIMIT = protocol.INLINE_VALUE_BYTES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=20), inner, max_size=10),
    max_leaves=60,
)


def test_carried_result_survives_pickling_and_stays_the_text_that_celery_logs() -> None:
    carried = pickle.loads(pickle.dumps(CarriedResult("{'a': 1}", '{"a":1}', 7)))
    assert (carried, carried.encoded, carried.size) == ("{'a': 1}", '{"a":1}', 7)


@pytest.mark.parametrize("error", [DuplicateDropped("why"), StoreUnavailable("why", requeue=True)])
def test_refusals_survive_pickling(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args) == (type(error), error.args)


@given(JSON)
def test_a_value_is_encoded_exactly_if_it_is_small(value: Any) -> None:
    whole = json.dumps(value, separators=(",", ":"))
    expected = (whole, len(whole)) if len(whole) <= LIMIT else (None, -1)
    assert encode_small(value) == expected


def test_value_at_the_limit_is_small_and_one_more_byte_is_not() -> None:
    assert encode_small("x" * (LIMIT - 2))[1] == LIMIT
    assert encode_small("x" * (LIMIT - 1)) == (None, -1)


def test_value_that_only_celery_can_encode_is_carried_as_celery_stores_it() -> None:
    text, size = encode_small({"at": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)})
    assert text == '{"at":{"__type__":"datetime","__value__":"2026-01-02T03:04:05+00:00"}}'
    assert size == len(text)


def test_value_that_is_not_json_is_not_carried() -> None:
    assert encode_small({"x": object()}) == (None, -1)
