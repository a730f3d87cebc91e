"""Writing the status of apps and pools: only what changed, over the version that was read, with events for bad news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from celery_operator.api.conditions import Condition
from celery_operator.domain.conditions import bad_news
from celery_operator.domain.errors import Conflict, Gone
from celery_operator.services.ports import Cluster, EventRecord, Manifest, ObjectKey


def key_of(manifest: Manifest) -> ObjectKey:
    """Return where an object is."""
    return ObjectKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


class StatusKeeper:
    """Writes statuses of one kind, and remembers what it wrote until the watch delivers it."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self._cluster = cluster
        self._kind = kind
        self._written: dict[ObjectKey, tuple[frozenset[str], Manifest]] = {}
        """By key: the resourceVersions that are known to be outdated, and the object as it is since."""

    def newest(self, manifest: Manifest) -> Manifest:
        """Return the object as it is after this keeper's own last write, if the watch has not delivered that yet."""
        key = key_of(manifest)
        outdated, current = self._written.get(key, (frozenset(), manifest))
        if manifest["metadata"]["resourceVersion"] in outdated:
            return current
        self.forget(key)
        return manifest

    async def write(
        self,
        manifest: Manifest,
        status: Mapping[str, Any],
        before: Sequence[Condition],
        conditions: Sequence[Condition],
    ) -> bool:
        """Write a status if it differs, then one Warning event for each piece of bad news.

        ``manifest`` is what newest() returned. False: somebody changed the object meanwhile, look again. Raises
        Gone if it was deleted, ClusterError.
        """
        if manifest.get("status") == status:
            return True
        key, version = key_of(manifest), manifest["metadata"]["resourceVersion"]
        try:
            current = await self._cluster.write_status(self._kind, key, status, resource_version=version)
        except Conflict:
            self._remember(key, version, await self.must_exist(manifest))  # the watch is behind
            return False
        self._remember(key, version, current)
        for condition in _once_per_reason(bad_news(before, conditions)):
            await self.record(manifest, "Warning", condition.reason, condition.message)
        return True

    async def record(
        self, manifest: Manifest, event_type: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Write an Event about an object."""
        uid = str(manifest["metadata"]["uid"])
        await self._cluster.record(
            EventRecord(self._kind, key_of(manifest), uid, event_type, reason, message or reason)
        )

    async def must_exist(self, manifest: Manifest) -> Manifest:
        """Return the object as it is now. Raises Gone if it was deleted, or another one has its name by now.

        A watch that was interrupted for long lists what there is, and never tells what went meanwhile.
        """
        key = key_of(manifest)
        current = await self._cluster.get(self._kind, key)
        if current is None or current["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise Gone(f"{self._kind} {key} was deleted")
        return current

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered about an object."""
        self._written.pop(key, None)

    def _remember(self, key: ObjectKey, version: str, current: Manifest) -> None:
        outdated, _ = self._written.get(key, (frozenset[str](), current))
        self._written[key] = (outdated | {version}, current)


def _once_per_reason(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    return tuple({condition.reason: condition for condition in reversed(conditions)}.values())
