"""URLs of brokers and backends: what is served, how it is read, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.adapters.rabbitmq_broker import RabbitmqBroker
from celery_operator.adapters.redis_broker import RedisBroker
from celery_operator.adapters.redis_client import RedisAddressError, connection_options
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError

DEFAULT = {"host": "h", "port": 6379, "db": 0}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h", DEFAULT),
        ("redis://h/", DEFAULT),
        ("redis://h:7000/3", {"host": "h", "port": 7000, "db": 3}),
        ("redis://h//3", {**DEFAULT, "db": 3}),
        ("redis://h?virtual_host=/4", {**DEFAULT, "db": 4}),
        ("redis://h?db=5&visibility_timeout=10", {**DEFAULT, "db": 5}),
        ("redis://me:p%40ss@h/1", {**DEFAULT, "db": 1, "username": "me", "password": "p@ss"}),
        ("redis://:pass@h", {**DEFAULT, "password": "pass"}),
        ("redis://[::1]:1/2", {"host": "::1", "port": 1, "db": 2}),
        ("rediss://h", {**DEFAULT, "ssl_cert_reqs": "required"}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {**DEFAULT, "ssl_cert_reqs": "none"}),
        (
            "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem&ssl_check_hostname=true",
            {**DEFAULT, "ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True},
        ),
    ],
)
def test_redis_urls_are_read_as_celery_reads_them(url: str, options: dict[str, Any]) -> None:
    assert connection_options(url) == options


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@h:port/0",
        "redis://me:secret@h/name",
        "redis:///0",
        "redis://h:99999",
        "redis://me:se/secret@h",
    ],
)
def test_redis_urls_that_cannot_be_read_say_why_without_credentials(url: str) -> None:
    with pytest.raises(RedisAddressError) as caught:
        connection_options(url)
    assert "secret" not in str(caught.value)


@pytest.fixture
def connections() -> CeleryConnections:
    return CeleryConnections(SystemClock())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", RedisBroker),
        ("REDISS://h/1", RedisBroker),
        ("amqp://h//", RabbitmqBroker),
        ("amqps://h", RabbitmqBroker),
        ("pyamqp://guest@h//", RabbitmqBroker),
    ],
)
async def test_brokers_are_opened_by_scheme_and_shared_by_url(
    connections: CeleryConnections, url: str, kind: type
) -> None:
    broker: Any = connections.broker(url)
    with broker.use() as first:
        assert type(first) is kind
    assert id(connections.broker(url)) == id(broker)
    await connections.close_all()
    with broker.use() as second:
        assert type(second) is kind
        assert second is not first
    await connections.close_all()


@pytest.mark.parametrize(
    "url",
    [
        "sqs://key:secret@",
        "sentinel://me:secret@h:26379",
        "redis://me:secret@h/name",
        "amqp://me:secret@h:port//",
        "amqp://me:se/secret@h//",
        "redis://me:secret/x@h//",
        "redis://a:secret@b;redis://c",
        "me:secret@h",
        "",
    ],
)
def test_brokers_that_are_not_served_are_refused_without_credentials(connections: CeleryConnections, url: str) -> None:
    with pytest.raises(SpecError) as caught:
        connections.broker(url)
    assert caught.value.reason == Reason.UNSUPPORTED_BROKER
    assert "secret" not in caught.value.message
