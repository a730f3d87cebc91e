"""Settings come from the environment, and a wrong one is named."""

from __future__ import annotations

import pytest

from celery_operator.settings import Settings, SettingsError, read_settings


def test_the_defaults_serve_all_namespaces() -> None:
    assert read_settings({"POD_NAME": "p-1"}) == Settings(identity="p-1")


def test_each_variable_is_read() -> None:
    environment = {
        "CELERY_OPERATOR_WATCH_NAMESPACES": "shop, depot,",
        "CELERY_OPERATOR_LEASE_NAMESPACE": "ops",
        "CELERY_OPERATOR_LEASE_DURATION_SECONDS": "30",
        "CELERY_OPERATOR_IDENTITY": "me",
        "CELERY_OPERATOR_HTTP_PORT": "0",
        "CELERY_OPERATOR_LOG_LEVEL": "debug",
        "POD_NAME": "p-1",
        "OTHER": "ignored",
    }
    assert read_settings(environment) == Settings(
        watch_namespaces=("shop", "depot"),
        lease_namespace="ops",
        lease_duration_seconds=30,
        identity="me",
        http_port=0,
        log_level="debug",
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CELERY_OPERATOR_HTTP_PORT", "http"),
        ("CELERY_OPERATOR_LOG_LEVEL", "loud"),
        ("CELERY_OPERATOR_LEASE_DURATION_SECONDS", "1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable) as error:
        read_settings({variable: value, "POD_NAME": "p"})
    assert repr(value) in str(error.value)
