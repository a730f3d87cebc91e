"""What anybody may have written into a message's headers is not trusted further than it goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import virtual

from celery_patterns.agent.requests import is_time
from celery_patterns.resilience.poison import Deliveries
from celery_patterns.tasks.headers import HEADER, Tries

INFINITY = float("inf")
NAN = float("nan")


@pytest.mark.parametrize(
    "header",
    [
        {"deferrals": INFINITY},
        {"deferrals": NAN},
        {"deferred": INFINITY},
        {"deferred": NAN},
        {"first_at": -INFINITY},
        {"deferrals": "many"},
        {"deferrals": []},
        [],
        7,
    ],
    ids=repr,
)
def test_tries_that_are_no_numbers_are_celerys_own(header: Any) -> None:
    assert Tries.of({HEADER: header}, retries=2) == Tries(attempt=3)


@pytest.mark.parametrize("value", [INFINITY, -INFINITY, NAN, True, "1795411655", None, 0, -5, [1]], ids=repr)
def test_what_is_no_time_is_none(value: Any) -> None:
    assert not is_time(value)


def test_seconds_since_the_epoch_are_a_time() -> None:
    assert is_time(1_795_411_655)
    assert is_time(1_795_411_655.5)


def test_deliveries_are_the_brokers_to_count() -> None:
    """Redis counts none: there the header is the sender's own."""
    headers = {"x-delivery-count": 100}
    by_rabbitmq = SimpleNamespace(headers=headers, delivery_info={})
    by_redis = virtual.Message(
        {"body": "", "headers": headers, "properties": {"delivery_tag": "1", "delivery_info": {}}}
    )  # type: ignore[no-untyped-call]
    counts = [Deliveries(None).count(message, "id", 0) for message in (by_rabbitmq, by_redis)]
    assert counts == [101, 1]
    for odd in (True, -1, 2.5, "100"):
        message = SimpleNamespace(headers={"x-delivery-count": odd}, delivery_info={})
        assert Deliveries(None).count(message, "id", 0) == 1
