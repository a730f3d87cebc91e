"""Writes the status of one workflow: one write at a time, never an older state over a newer one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery_operator.api.conditions import Condition, ConditionType
from celery_operator.api.workflow import WorkflowStatus
from celery_operator.domain.conditions import bad_news
from celery_operator.domain.errors import Conflict, Gone
from celery_operator.services.ports import Cluster, EventRecord, Manifest, ObjectKey

KIND = "CeleryWorkflow"

FIRST_WRITE_AFTER = timedelta(milliseconds=100)
"""A workflow that ends within this time is written once, with its end; any other shows itself this soon."""

WRITE_INTERVAL = timedelta(seconds=1)
"""Between two writes of one workflow: what people watch, not what the run depends on."""

CONFLICT_TRIES = 5
"""The only other writers are users, who change metadata or ``suspend``; a handful of tries outlasts any of them."""


class StatusWriter:
    """The status subresource of one workflow."""

    def __init__(self, cluster: Cluster, key: ObjectKey, uid: str, resource_version: str) -> None:
        self._cluster = cluster
        self._key = key
        self._uid = uid
        self._resource_version = resource_version
        self._conditions: tuple[Condition, ...] = ()
        self.written: WorkflowStatus | None = None

    def seen(self, manifest: Manifest, status: WorkflowStatus | None) -> None:
        """Take note of what the cluster holds now."""
        self._resource_version = str(manifest["metadata"]["resourceVersion"])
        if self.written is None and status is not None:
            self.written = status
            self._conditions = tuple(status.conditions)

    async def write(self, status: WorkflowStatus) -> None:
        """Replace the status, unless it is what was written last; events follow what has become worse.

        Where an earlier leader has concluded the run meanwhile, its end stands: an end is then not written again.

        Raises Gone if the workflow was deleted (or another one has its name) or has ended without us, ClusterError if
        the API fails.
        """
        if status == self.written:
            return
        body = status.to_resource()
        for _ in range(CONFLICT_TRIES):
            try:
                await self._replace(body)
                break
            except Conflict:
                if await self._observe_again():
                    if not is_final(body):
                        raise Gone(f"{KIND} {self._key} has been ended by another process") from None
                    break
        else:
            raise Conflict(f"status of {KIND} {self._key} changed during each of {CONFLICT_TRIES} attempts to write it")
        self.written = status
        before, self._conditions = self._conditions, tuple(status.conditions)
        for condition in bad_news(before, self._conditions):
            await self.record("Warning", condition.reason, condition.message)

    async def record(self, type_: str, reason: str, message: str) -> None:
        """Write an Event about the workflow."""
        await self._cluster.record(
            EventRecord(
                kind=KIND,
                key=self._key,
                uid=self._uid,
                type="Warning" if type_ == "Warning" else "Normal",
                reason=reason,
                message=message,
            )
        )

    async def _replace(self, body: dict[str, Any]) -> None:
        manifest = await self._cluster.write_status(KIND, self._key, body, resource_version=self._resource_version)
        self._resource_version = str(manifest["metadata"]["resourceVersion"])

    async def _observe_again(self) -> bool:
        """Look at what the cluster holds; whether that says how the workflow ended."""
        manifest = await self._cluster.get(KIND, self._key)
        if manifest is None or manifest["metadata"]["uid"] != self._uid:
            raise Gone(f"{KIND} {self._key} was deleted")
        self._resource_version = str(manifest["metadata"]["resourceVersion"])
        return has_ended(manifest)


def has_ended(manifest: Manifest) -> bool:
    """Whether the workflow's Succeeded condition says how it ended."""
    return is_final(manifest.get("status") or {})


def is_final(status: Mapping[str, Any]) -> bool:
    """Whether a status says how the workflow ended."""
    conditions = status.get("conditions") or []
    return any(c["type"] == ConditionType.SUCCEEDED and c["status"] in ("True", "False") for c in conditions)
