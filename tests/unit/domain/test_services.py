"""Short host names lead to the Service of the resource's namespace, whoever asks."""

from __future__ import annotations

import pytest

from celery_operator.domain.services import qualify_host


@pytest.mark.parametrize(
    ("url", "qualified"),
    [
        ("redis://redis:6379/0", "redis://redis.shop.svc:6379/0"),
        ("redis://redis", "redis://redis.shop.svc"),
        ("redis://redis/1?ssl=1", "redis://redis.shop.svc/1?ssl=1"),
        ("amqp://me:p@w@rabbit-mq:5672//", "amqp://me:p@w@rabbit-mq.shop.svc:5672//"),
        ("rediss://:secret@redis:6379", "rediss://:secret@redis.shop.svc:6379"),
    ],
)
def test_a_host_of_one_label_is_a_service_of_the_namespace(url: str, qualified: str) -> None:
    assert qualify_host(url, "shop") == qualified


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis.other.svc:6379/0",
        "redis://redis.example.com/0",
        "redis://10.0.0.1:6379/0",
        "redis://[::1]:6379/0",
        "redis://localhost:6379/0",
        "redis://a;redis://b",
        "redis+socket:///tmp/redis.sock",
        "nonsense",
        "",
    ],
)
def test_every_other_url_stays_as_it_is(url: str) -> None:
    assert qualify_host(url, "shop") == url
