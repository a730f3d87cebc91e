"""Applications as many workflows need them: asked for once, however many workflows begin in the same moment."""

from __future__ import annotations

import asyncio

from celery_operator.api.app import AppSpec
from celery_operator.api.model import NamedRef
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_operator.services.apps import AppResolver
from celery_operator.services.ports import Clock, ObjectKey

APP_SECONDS = 0.25
"""How old an answer may be. A run keeps its application to the end, so this is shorter than anybody types."""


class SharedApps:
    """An AppResolver whose answers about named applications are shared. Refusals are not: they heal."""

    def __init__(self, apps: AppResolver, clock: Clock) -> None:
        self._apps = apps
        self._clock = clock
        self._asked: dict[ObjectKey, tuple[float, asyncio.Task[ResolvedApp]]] = {}

    async def resolve(self, namespace: str, app_ref: NamedRef | None, app: AppSpec | None) -> ResolvedApp:
        """Return the application that a workflow names or holds. Raises as AppResolver.resolve()."""
        if app_ref is None or app is not None:
            return await self._apps.resolve(namespace, app_ref, app)
        key, now = ObjectKey(namespace, app_ref.name), self._clock.monotonic()
        asked_at, asking = self._asked.get(key, (0.0, None))
        if asking is None or now - asked_at >= APP_SECONDS or _failed(asking):
            asking = asyncio.create_task(self._apps.resolve(namespace, app_ref, None), name=f"CeleryApp {key}")
            self._asked = {k: kept for k, kept in self._asked.items() if now - kept[0] < APP_SECONDS}
            self._asked[key] = (now, asking)
        return await asyncio.shield(asking)  # one workflow that is deleted meanwhile must not end it for the others


def _failed(asking: asyncio.Task[ResolvedApp]) -> bool:
    return asking.done() and (asking.cancelled() or asking.exception() is not None)
