"""Whether the API server knows our kinds yet: an operator that starts before its CRDs has nothing to watch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from celery_operator.adapters.kubernetes.connection import ApiConnection, NotServed
from celery_operator.api import GROUP, VERSION
from celery_operator.domain.errors import ClusterError

ASK_SECONDS = 1.0
"""Between two questions: CRDs are served within a second or two of being created."""

log = structlog.get_logger(__name__)


class ServedKinds:
    """Waits until the API server serves all of our resources, and says meanwhile what is missing.

    Args:
        api: A connection; closing it remains the caller's matter.
        plurals: Names of the resources, as in URLs.
        pause: Seconds between two questions.
    """

    def __init__(self, api: ApiConnection, plurals: Iterable[str], *, pause: float = ASK_SECONDS) -> None:
        self._api = api
        self._plurals = frozenset(plurals)
        self._pause = pause
        self.trouble: str | None = "not asked the Kubernetes API yet which resources it serves"
        """A sentence about what is missing; None once all are served."""

    async def wait(self) -> None:
        """Return once all are served. Never raises for an API server that does not answer."""
        while True:
            before, self.trouble = self.trouble, await self._look()
            if self.trouble is None:
                return
            if self.trouble != before:
                log.warning("waiting for our kinds", why=self.trouble)
            await asyncio.sleep(self._pause)

    async def _look(self) -> str | None:
        try:
            answer = await self._api.request("GET", f"/apis/{GROUP}/{VERSION}")
            served = {each["name"] for each in answer.get("resources") or ()}
        except NotServed:
            served = set()
        except ClusterError as error:
            return error.message
        missing = sorted(self._plurals - served)
        if not missing:
            return None
        names = ", ".join(f"{plural}.{GROUP}" for plural in missing)
        return (
            f"the Kubernetes API does not serve {names} in {VERSION}: apply the CustomResourceDefinitions of the chart"
        )
