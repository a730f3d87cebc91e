"""How kopf is configured, and why: each line is a hazard that was met."""

from __future__ import annotations

from typing import Any

import kopf
from typing_extensions import override

OWN_PREFIX = "kopf.celery-operator.dev"
"""Should kopf ever store anything, it stores it under a name of ours."""

WATCH_SECONDS = 300
"""The server ends a watch after this; a stream that has gone quiet for good cannot go unnoticed for longer."""


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copies of objects: nobody asks kopf what has changed, and it would copy each object of each event."""

    @override
    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return what kopf would compare: nothing."""
        return kopf.BodyEssence()

    @override
    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return what was stored: nothing."""
        return None

    @override
    def store(self, **_: Any) -> None:
        """Store nothing."""


def configure() -> kopf.OperatorSettings:
    """Return the settings that this operator runs kopf with."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # log lines are no Kubernetes events
    settings.scanning.disabled = True  # our kinds are known; watching CRDs would need a right more
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 10
    settings.persistence.finalizer = f"{OWN_PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=OWN_PREFIX)
    settings.persistence.diffbase_storage = NoDiffBase()
    return settings
