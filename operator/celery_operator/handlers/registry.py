"""The route table: every trigger in one screen. Handlers return None and write nothing: services do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import kopf

from celery_operator.api import GROUP, VERSION

KINDS = {"celeryapps": "CeleryApp", "celeryworkerpools": "CeleryWorkerPool", "celeryworkflows": "CeleryWorkflow"}
"""Plural names of the watched resources, and their kinds."""

Observe = Callable[[str, dict[str, Any], bool], None]
"""Takes (kind, object, deleted)."""


def build_registry(observe: Observe, kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Return the handlers of one operator. Only ``on.event``: no finalizers, no annotations, no copies of specs."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(*, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
        """Log in as the pod's service account, else by a kubeconfig."""
        if kubeconfig is not None:
            os.environ["KUBECONFIG"] = kubeconfig  # the only way to tell kopf which one
            return kopf.login_with_kubeconfig(settings=settings)
        return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)

    for plural, kind in KINDS.items():

        @kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"observe-{plural}", param=kind)
        async def seen(*, event: Any, param: Any = None, **_: Any) -> None:
            observe(param, dict(event["object"]), event["type"] == "DELETED")

    return registry
