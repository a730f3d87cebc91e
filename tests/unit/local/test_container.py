"""A container that cannot be described here is not started, and its pod says why."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from celery_operator.local.container import LaunchError, prepare
from celery_operator.local.hosts import HostMap
from celery_operator.services.ports import ObjectKey

BINARY = base64.b64encode(b"\xff\xfe").decode()
REFERENCE = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}


def pod(**container: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "worker", "command": ["true"], **container}]},
        "status": {"podIP": "127.0.0.1"},
    }


@pytest.mark.parametrize(
    "container",
    [{"env": [REFERENCE]}, {"envFrom": [{"secretRef": {"name": "s"}}]}],
    ids=["one variable", "all variables"],
)
def test_a_secret_that_cannot_be_a_variable_is_named(container: dict[str, Any], tmp_path: Path) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": BINARY}}

    def lookup(_kind: str, _key: ObjectKey) -> dict[str, Any]:
        return secret

    with pytest.raises(LaunchError, match="key k of Secret s is no text"):
        prepare(pod(**container), lookup, tmp_path, HostMap(), ("celery",))
