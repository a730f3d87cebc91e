"""Where the store is when nobody says so: the result backend or broker that Celery uses, the environment's included."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_patterns.store import Store, StoreNotConfigured, StoreSettings
from celery_patterns.store.settings import store_url
from celery_patterns.tasks import PatternApp
from celery_patterns.tasks.patterns import patterns_of

REDIS, OTHER, AMQP = "redis://127.0.0.1:7001/4", "redis://127.0.0.1:7002/5", "amqp://guest@127.0.0.1:7003//"
BACKEND = None
"""The result backend's own client is used."""

FOUND: list[Any] = [
    pytest.param({}, {}, {"CELERY_BROKER_URL": REDIS}, REDIS, id="broker of the environment"),
    pytest.param({}, {}, {"CELERY_RESULT_BACKEND": REDIS}, BACKEND, id="backend of the environment"),
    pytest.param(
        {}, {}, {"CELERY_BROKER_URL": OTHER, "CELERY_RESULT_BACKEND": REDIS}, BACKEND, id="backend before broker"
    ),
    pytest.param({"broker": REDIS}, {}, {}, REDIS, id="broker of the application"),
    pytest.param({"backend": REDIS}, {}, {}, BACKEND, id="backend of the application"),
    pytest.param({}, {"broker_url": REDIS}, {}, REDIS, id="broker of the settings"),
    pytest.param({}, {"result_backend": REDIS}, {}, BACKEND, id="backend of the settings"),
    pytest.param({}, {"broker_url": OTHER}, {"CELERY_BROKER_URL": REDIS}, REDIS, id="environment wins, as in Celery"),
    pytest.param({"broker": AMQP}, {}, {"CELERY_RESULT_BACKEND": REDIS}, BACKEND, id="backend beside RabbitMQ"),
    pytest.param({"broker": f"{REDIS};{OTHER}"}, {}, {}, REDIS, id="first of several brokers"),
    pytest.param(
        {"broker": OTHER}, {"patterns_store_url": REDIS}, {"CELERY_RESULT_BACKEND": OTHER}, REDIS, id="named itself"
    ),
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_PATTERNS_STORE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("arguments", "conf", "environment", "expected"), FOUND)
@pytest.mark.parametrize("late", [False, True], ids=["set before", "set after the application is made"])
def test_the_store_is_found_where_celery_itself_looks(
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    conf: dict[str, str],
    environment: dict[str, str],
    *,
    expected: str | None,
    late: bool,
) -> None:
    def set_environment() -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    if not late:
        set_environment()
    with PatternApp("x", set_as_current=False, **arguments) as app:
        if late:
            set_environment()
        if conf:
            app.conf.update(conf)
        store = patterns_of(app).store
        assert store_url(store.settings, app.conf) == expected
        parameters = store.client.connection_pool.connection_kwargs
        assert (parameters["host"], parameters["port"], parameters["db"]) == ("127.0.0.1", 7001, 4)
        store.close()


@pytest.mark.parametrize("conf", [{}, {"broker_url": OTHER}], ids=["nothing else", "over the application's"])
def test_rabbitmq_of_the_environment_is_no_store(monkeypatch: pytest.MonkeyPatch, conf: dict[str, str]) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", AMQP)
    with Celery("x", set_as_current=False) as app:
        app.conf.update(conf)
        with pytest.raises(StoreNotConfigured, match="CELERY_PATTERNS_STORE_URL"):
            Store(app, StoreSettings()).client  # noqa: B018 - the property connects
