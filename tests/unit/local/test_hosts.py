"""Names of Services lead to this machine; everything else stays as it was written."""

from __future__ import annotations

import pytest

from celery_operator.local.hosts import HostMap, is_service_name, parse_mapping

EMBEDDED = HostMap(embedded="redis://:pw@127.0.0.1:4000")


@pytest.mark.parametrize("host", ["redis", "celery-redis", "redis.shop.svc", "redis.shop.svc.cluster.local", "REDIS"])
def test_one_label_and_cluster_suffixes_are_names_of_services(host: str) -> None:
    assert is_service_name(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "redis.example.com", "10.0.0.1", "redis.shop"])
def test_other_hosts_are_not(host: str) -> None:
    assert not is_service_name(host)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("redis://celery-redis:6379/1", "redis://:pw@127.0.0.1:4000/1"),
        ("redis://celery-redis", "redis://:pw@127.0.0.1:4000"),
        ("rediss://user:secret@celery-redis.ns.svc:6380/2?x=y", "redis://:pw@127.0.0.1:4000/2?x=y"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:p@redis.example.com:6379/0", "redis://:p@redis.example.com:6379/0"),
        ("amqp://rabbitmq:5672//", "amqp://rabbitmq:5672//"),
        ("http://celery-redis:80/", "http://celery-redis:80/"),
        ("no url", "no url"),
    ],
)
def test_a_redis_of_the_cluster_leads_to_the_embedded_one(url: str, here: str) -> None:
    assert EMBEDDED.rewrite(url) == here


def test_a_host_that_is_named_leads_where_it_was_told_to() -> None:
    hosts = HostMap(named={"rabbitmq": "127.0.0.1:5673", "redis": "10.1.1.1:7000"}, embedded="redis://127.0.0.1:4000")
    assert hosts.rewrite("amqp://guest:guest@rabbitmq:5672//") == "amqp://guest:guest@127.0.0.1:5673//"
    assert hosts.rewrite("redis://redis/3") == "redis://10.1.1.1:7000/3"
    assert not hosts.wants_embedded("redis://redis/3")
    assert hosts.unserved("amqp://rabbitmq//") == ()


def test_only_redis_urls_of_services_want_an_embedded_redis() -> None:
    assert HostMap().wants_embedded("redis://celery-redis:6379/0")
    assert not HostMap().wants_embedded("redis://localhost:6379/0")
    assert not HostMap().wants_embedded("amqp://rabbitmq//")


def test_a_rabbitmq_of_the_cluster_is_served_by_nothing_here() -> None:
    assert HostMap().unserved("amqp://user:pw@rabbitmq:5672/shop") == ("amqp://rabbitmq",)
    assert HostMap().unserved("amqp://localhost//") == ()


def test_a_mapping_is_a_name_and_an_address() -> None:
    assert parse_mapping("redis=127.0.0.1:6380") == ("redis", "127.0.0.1:6380")
    assert parse_mapping("redis=localhost") == ("redis", "localhost:6379")


@pytest.mark.parametrize("text", ["redis", "=127.0.0.1:1", "redis=", "redis=host:port", "redis=:6379"])
def test_what_is_no_mapping_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME=HOST:PORT, for instance redis=127\.0\.0\.1:6379"):
        parse_mapping(text)
