"""Kubernetes Events: written in the background, repeats counted, never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from celery_operator.adapters.kubernetes.connection import MERGE_PATCH, ApiConnection
from celery_operator.adapters.kubernetes.resources import RESOURCES, resource_of
from celery_operator.domain.errors import ClusterError, Gone
from celery_operator.services.ports import Clock, EventRecord, Manifest, ObjectKey
from celery_patterns.protocol import mask_url

COMPONENT = "celery-operator"
MOST_PENDING = 1000
"""Different events that wait to be written; more than that are dropped, since the API server is in trouble then."""
MOST_REMEMBERED = 2048
"""Written events whose repeats are counted in place; API servers forget events after an hour anyway."""
MESSAGE_CHARACTERS = 1024
"""The API's own limit for an event's message."""
CLOSE_SECONDS = 2.0
"""How long the last events may take when the operator ends."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Written:
    name: str
    count: int


@dataclass
class _Pending:
    first: datetime
    last: datetime
    count: int


class EventWriter:
    """Writes EventRecords through one background task.

    Args:
        api: The connection.
        clock: For the times in events.
        instance: Who reports: the operator's pod.
    """

    def __init__(self, api: ApiConnection, clock: Clock, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._instance = instance
        self._pending: dict[EventRecord, _Pending] = {}
        self._written: OrderedDict[EventRecord, _Written] = OrderedDict()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, record: EventRecord) -> None:
        """Note an event to be written; returns at once and never raises."""
        now = self._clock.now().astimezone(UTC)
        pending = self._pending.get(record)
        if pending is not None:
            pending.last, pending.count = now, pending.count + 1
            return
        if len(self._pending) >= MOST_PENDING:
            _log.warning("event dropped", kind=record.kind, name=str(record.key), reason=record.reason)
            return
        self._pending[record] = _Pending(now, now, 1)
        self._idle.clear()
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_all(), name="kubernetes-events")

    async def _write_all(self) -> None:
        while True:
            while self._pending:
                record = next(iter(self._pending))
                pending = self._pending.pop(record)
                try:
                    await self._write(record, pending)
                except ClusterError as error:
                    _log.warning(
                        "event not written",
                        kind=record.kind,
                        name=str(record.key),
                        reason=record.reason,
                        error=error.message,
                    )
                except Exception:  # noqa: BLE001 - one wrong event must not end the writing of all others
                    _log.exception("event not written", kind=record.kind, name=str(record.key), reason=record.reason)
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()

    async def _write(self, record: EventRecord, pending: _Pending) -> None:
        written = self._written.pop(record, None)
        if written is not None:
            count = written.count + pending.count
            body = {"count": count, "lastTimestamp": _timestamp(pending.last)}
            path = RESOURCES["Event"].path(ObjectKey(record.key.namespace, written.name))
            with contextlib.suppress(Gone):
                await self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH)
                self._remember(record, _Written(written.name, count))
                return
        manifest = self._manifest(record, pending)
        await self._api.request("POST", RESOURCES["Event"].collection(record.key.namespace), body=manifest)
        self._remember(record, _Written(manifest["metadata"]["name"], pending.count))

    def _remember(self, record: EventRecord, written: _Written) -> None:
        self._written[record] = written
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)

    def _manifest(self, record: EventRecord, pending: _Pending) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{record.key.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": record.key.namespace},
            "involvedObject": {
                "apiVersion": resource_of(record.kind).api_version,
                "kind": record.kind,
                "namespace": record.key.namespace,
                "name": record.key.name,
                "uid": record.uid,
            },
            "type": record.type,
            "reason": record.reason,
            "message": mask_url(record.message)[:MESSAGE_CHARACTERS],
            "count": pending.count,
            "firstTimestamp": _timestamp(pending.first),
            "lastTimestamp": _timestamp(pending.last),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
        }

    async def close(self) -> None:
        """Write what is pending, for CLOSE_SECONDS at most."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._idle.wait()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None


def _timestamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
