"""References to applications are followed, or refused with what is missing, and credentials are never shown."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from celery_operator.api.app import AppSpec, Recovery, SecretKeyRef
from celery_operator.api.conditions import Reason
from celery_operator.api.model import NamedRef
from celery_operator.domain.errors import BrokerError, Gone, ResultBackendError, SpecError
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from celery_operator.services.apps import AppReconciler, AppResolver
from celery_operator.services.ports import ObjectKey
from fakes.brokers import FakeConnections
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster

URL = "redis://:pa55@redis:6379/0"
REFERENCE: dict[str, Any] = {"urlFrom": {"secretKeyRef": {"name": "shop", "key": "broker"}}}


def secret(value: str | bytes = URL, key: str = "broker") -> dict[str, Any]:
    raw = value if isinstance(value, bytes) else value.encode()
    return {"kind": "Secret", "metadata": {"name": "shop"}, "data": {key: base64.b64encode(raw).decode()}}


def celery_app(
    broker: dict[str, Any] | None = None, backend: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    connection = {"broker": broker or REFERENCE} | ({} if backend is None else {"resultBackend": backend})
    return {"kind": "CeleryApp", "metadata": {"name": "shop"}, "spec": {"connection": connection, **spec}}


async def resolve(*objects: dict[str, Any]) -> ResolvedApp:
    return await AppResolver(FakeCluster(*objects)).resolve("default", NamedRef(name="shop"), None)


async def refusal(*objects: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        await resolve(*objects)
    assert "pa55" not in caught.value.message
    return caught.value


async def test_an_app_with_a_secret() -> None:
    recovery = {"leaseSeconds": 10, "maxDeliveries": 3}
    app = await resolve(
        celery_app(backend={"url": "redis://redis/1"}, image="shop:1", application="shop:app", recovery=recovery),
        secret(),
    )
    assert app == ResolvedApp(
        broker=ResolvedEndpoint(URL, SecretKeyRef(name="shop", key="broker")),
        result_backend=ResolvedEndpoint("redis://redis/1"),
        application="shop:app",
        image="shop:1",
        recovery=Recovery(lease_seconds=10, max_deliveries=3),
    )
    assert (app.broker_url, app.require_backend()) == (URL, "redis://redis/1")


async def test_an_inline_app_needs_no_other_object() -> None:
    spec = AppSpec.model_validate({"connection": {"broker": {"url": "amqp://rabbitmq//"}}})
    app = await AppResolver(FakeCluster()).resolve("default", None, spec)
    assert (app.broker_url, app.broker_is_redis) == ("amqp://rabbitmq//", False)
    with pytest.raises(SpecError) as caught:
        app.require_backend()
    assert caught.value.reason is Reason.NO_RESULT_BACKEND


async def test_a_secret_as_a_person_writes_it_counts_too() -> None:
    plain = {"kind": "Secret", "metadata": {"name": "shop"}, "stringData": {"broker": URL}}
    assert (await resolve(celery_app(), plain)).broker_url == URL


async def test_a_missing_app_or_secret_or_key_is_named() -> None:
    app = await refusal()
    missing = await refusal(celery_app())
    keyless = await refusal(celery_app(), secret(key="other"))
    binary = await refusal(celery_app(), secret(b"\xff\xfe"))
    assert (app.reason, app.message) == (
        Reason.APP_NOT_FOUND,
        "spec.appRef: there is no CeleryApp default/shop: create it in this namespace",
    )
    where = "CeleryApp default/shop, spec.connection.broker.urlFrom.secretKeyRef"
    assert (missing.reason, missing.message) == (
        Reason.SECRET_NOT_FOUND,
        f"{where}: there is no Secret default/shop: create it in this namespace",
    )
    assert keyless.message == binary.message == f"{where}: Secret default/shop has no (text) key broker"


@pytest.mark.parametrize(
    "url", ["pa55", "redis:pa55", f"{URL}\n", "redis://:pa55@redis:port/0", "redis://:pa55@redis:99999999/0"]
)
async def test_a_url_that_cannot_be_one_is_refused_without_showing_it(url: str) -> None:
    error = await refusal(celery_app(), secret(url))
    assert error.reason is Reason.UNSUPPORTED_BROKER
    assert "key broker of Secret default/shop" in error.message


@pytest.mark.parametrize(
    "broker",
    [
        {"url": URL},
        {"url": "redis://user@redis"},
        {"url": "redis://redis", **REFERENCE},
        {"url": None},
        {"uri": "redis://redis"},
    ],
)
async def test_an_endpoint_that_the_schema_would_refuse_is_refused_here_too(broker: dict[str, Any]) -> None:
    error = await refusal(celery_app(broker), secret())
    assert error.reason is Reason.INVALID_SPEC
    assert error.message.startswith("CeleryApp default/shop")


async def test_exactly_one_of_reference_and_app() -> None:
    with pytest.raises(SpecError, match="exactly one of appRef and app"):
        await AppResolver(FakeCluster()).resolve("default", None, None)


class Stage:
    """An AppReconciler with everything around it."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.cluster = FakeCluster(*objects)
        self.connections = FakeConnections()
        self.clock = FakeClock()
        self.reconciler = AppReconciler(
            cluster=self.cluster, connections=self.connections, apps=AppResolver(self.cluster), clock=self.clock
        )

    async def reconcile(self) -> float:
        period = await self.reconciler.reconcile(self.cluster.must("CeleryApp", "shop"))
        return period.total_seconds()

    def conditions(self) -> dict[str, str]:
        status = self.cluster.must("CeleryApp", "shop")["status"]
        return {each["type"]: f"{each['status']} {each['reason']}" for each in status["conditions"]}


async def test_an_app_whose_servers_answer_is_ready_and_written_once() -> None:
    stage = Stage(celery_app(backend={"url": "redis://redis/1"}), secret())
    assert [await stage.reconcile(), await stage.reconcile()] == [10.0, 10.0]
    assert stage.conditions() == {
        "Accepted": "True Accepted",
        "BrokerReachable": "True Connected",
        "ResultBackendReachable": "True Connected",
        "Ready": "True Connected",
        "Reconciling": "False Settled",
        "Stalled": "False MakingProgress",
    }
    assert (stage.cluster.writes, stage.cluster.events) == (["status CeleryApp"], [])


async def test_servers_in_trouble_are_told_with_one_event_each_and_heal() -> None:
    stage = Stage(celery_app(backend={"url": "redis://redis/1"}), secret())
    broker, backend = stage.connections.broker(URL), stage.connections.result_backend("redis://redis/1")
    broker.error = BrokerError(f"{URL}: wrong password", Reason.AUTHENTICATION_FAILED)
    backend.error = ResultBackendError("refused")
    assert [await stage.reconcile(), await stage.reconcile()] == [1.0, 1.0]
    assert stage.conditions()["Ready"] == "False AuthenticationFailed"
    assert {(event.type, event.reason) for event in stage.cluster.events} == {
        ("Warning", "AuthenticationFailed"),
        ("Warning", "ConnectionFailed"),
    }
    assert len(stage.cluster.events) == 2
    assert "pa55" not in str(stage.cluster.must("CeleryApp", "shop")) + str(stage.cluster.events)
    broker.error = backend.error = None
    assert await stage.reconcile() == 10.0
    assert stage.conditions()["Ready"] == "True Connected"


async def test_a_missing_secret_heals_when_it_appears() -> None:
    stage = Stage(celery_app())
    assert await stage.reconcile() == 1.0
    assert stage.conditions() == {
        "Accepted": "False SecretNotFound",
        "BrokerReachable": "Unknown NotChecked",
        "ResultBackendReachable": "Unknown NotChecked",
        "Ready": "False NotAccepted",
        "Reconciling": "False NotAccepted",
        "Stalled": "True NotAccepted",
    }
    assert [event.reason for event in stage.cluster.events] == ["SecretNotFound"]
    stage.cluster.put(secret())
    assert await stage.reconcile() == 10.0
    assert stage.conditions()["ResultBackendReachable"] == "Unknown NotChecked"


async def test_a_transport_that_is_not_served_is_a_condition_and_so_is_a_field_that_does_not_exist() -> None:
    stage = Stage(celery_app({"url": "sqs://queue"}))
    await stage.reconcile()
    assert stage.conditions()["Accepted"] == "False UnsupportedBroker"
    stage = Stage(celery_app({"url": "redis://redis"}, imagee="x"))
    await stage.reconcile()
    [accepted] = [
        each for each in stage.cluster.must("CeleryApp", "shop")["status"]["conditions"] if each["type"] == "Accepted"
    ]
    assert (accepted["reason"], accepted["message"].split(":")[0]) == ("InvalidSpec", "spec.imagee")


async def test_an_app_that_is_being_deleted_or_forgotten_is_left_alone() -> None:
    stage = Stage(celery_app())
    manifest = stage.cluster.must("CeleryApp", "shop")
    manifest["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    await stage.reconciler.reconcile(manifest)
    stage.reconciler.forget(ObjectKey("default", "shop"))
    assert stage.cluster.writes == []


async def test_an_app_whose_deletion_nobody_reported_is_not_kept_up() -> None:
    stage = Stage(celery_app({"url": "redis://redis"}))
    manifest = stage.cluster.must("CeleryApp", "shop")
    await stage.reconcile()
    await stage.cluster.delete("CeleryApp", ObjectKey("default", "shop"))
    with pytest.raises(Gone):
        await stage.reconciler.reconcile(manifest)


async def test_workers_and_operator_may_reach_the_same_server_by_different_names() -> None:
    cluster = FakeCluster(celery_app())
    resolver = AppResolver(cluster, qualify=lambda url, namespace: url.replace("//redis", f"//redis.{namespace}.svc"))
    spec = AppSpec.model_validate({"connection": {"broker": {"url": "redis://redis/0"}}})
    app = await resolver.resolve("default", None, spec)
    assert app.broker_url == "redis://redis.default.svc/0"
    assert app.broker.env("B") == {"name": "B", "value": "redis://redis/0"}
