"""What wakes whom: every object has one loop of its own, and every trigger runs the same function.

The operator is level-triggered. A change of a resource, a tick, or a hint only says "look": what to do is decided from
what is then observed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import structlog

from celery_operator.domain.errors import DependencyError, Gone
from celery_operator.services.ports import Manifest, Metrics, NoMetrics, ObjectKey

log = structlog.get_logger(__name__)

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(seconds=30)
"""Back-off after a reconcile that could not be carried out: soon at first, never rarer than this."""


class Reconciler(Protocol):
    """What brings one kind of object towards its spec."""

    async def reconcile(self, manifest: Manifest) -> timedelta:
        """Observe, plan, apply, report; return when to look again.

        Raises Gone if the object itself was deleted, DependencyError if something is unwell.
        """
        ...

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered about an object that is gone."""
        ...


class Engine(Protocol):
    """What runs workflows: it has its own way to wait, so it is only told what is there."""

    def observe(self, manifest: Manifest) -> None:
        """Take note of a workflow as it is now."""
        ...

    def forget(self, key: ObjectKey, uid: str) -> None:
        """End the run of a workflow that was deleted; another one of the same name goes on."""
        ...


@dataclass(slots=True)
class _Kept:
    manifest: Manifest
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Controller:
    """The operator's objects and their loops.

    All of them may look at the same time: what they ask is bounded by those who are asked, and an object whose broker
    does not answer holds up nobody else.
    """

    def __init__(
        self, *, reconcilers: dict[str, Reconciler], workflows: Engine, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or NoMetrics()
        self._reconcilers = reconcilers
        self._workflows = workflows
        self._kept: dict[tuple[str, ObjectKey], _Kept] = {}

    def observe(self, kind: str, manifest: Manifest, *, deleted: bool = False) -> None:
        """Take note of an object as it is now, or of its end. Never blocks and never raises for a wrong object."""
        metadata = manifest["metadata"]
        key = ObjectKey(metadata["namespace"], metadata["name"])
        if kind == "CeleryWorkflow":
            self._workflows.forget(key, metadata["uid"]) if deleted else self._workflows.observe(manifest)
        elif deleted:
            self._end(kind, key, metadata["uid"])
        else:
            self._begin_or_wake(kind, key, manifest)

    def wake(self, kind: str, key: ObjectKey) -> None:
        """Make an object's loop look now."""
        kept = self._kept.get((kind, key))
        if kept is not None:
            kept.wake.set()

    async def close(self) -> None:
        """End all loops."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()

    def _begin_or_wake(self, kind: str, key: ObjectKey, manifest: Manifest) -> None:
        kept = self._kept.get((kind, key))
        if kept is not None and _older(manifest, kept.manifest):
            return
        if kept is not None:
            changed = _spec_changed(kept.manifest, manifest)
            kept.manifest = manifest
            if changed:
                kept.wake.set()
            return
        kept = _Kept(manifest)
        self._kept[kind, key] = kept
        kept.task = asyncio.create_task(self._keep(kind, key, kept), name=f"{kind} {key}")

    def _end(self, kind: str, key: ObjectKey, uid: str) -> None:
        """End the loop of a deleted object. The end of an earlier one of its name may be reported after its begin."""
        kept = self._kept.get((kind, key))
        if kept is None or kept.manifest["metadata"]["uid"] != uid:
            return
        del self._kept[kind, key]
        if kept.task is not None and kept.task is not asyncio.current_task():
            kept.task.cancel()
        self._reconcilers[kind].forget(key)

    async def _keep(self, kind: str, key: ObjectKey, kept: _Kept) -> None:
        retry = FIRST_RETRY
        while self._kept.get((kind, key)) is kept:
            kept.wake.clear()
            uid = kept.manifest["metadata"]["uid"]
            try:
                delay = await self._reconcile(kind, kept)
                retry = FIRST_RETRY
            except Gone:
                log.info("gone before its deletion was reported", kind=kind, object=str(key))
                self._end(kind, key, uid)
                continue
            except DependencyError as error:
                log.warning("reconcile postponed", kind=kind, object=str(key), why=error.message, seconds=retry.seconds)
                delay, retry = retry, min(retry * 2, LONGEST_RETRY)
            except Exception:
                log.exception("reconcile failed: this is a defect of the operator", kind=kind, object=str(key))
                delay, retry = retry, min(retry * 2, LONGEST_RETRY)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay.total_seconds()):
                    await kept.wake.wait()

    async def _reconcile(self, kind: str, kept: _Kept) -> timedelta:
        time = asyncio.get_running_loop().time
        began, failed = time(), True
        try:
            delay = await self._reconcilers[kind].reconcile(kept.manifest)
            failed = False
        finally:
            self._metrics.reconciled(kind, time() - began, failed=failed)
        return delay


def _older(one: Manifest, other: Manifest) -> bool:
    """Whether ``one`` was read before ``other`` of the same object: the generation never decreases."""
    same = one["metadata"]["uid"] == other["metadata"]["uid"]
    return same and int(one["metadata"].get("generation", 0)) < int(other["metadata"].get("generation", 0))


def _spec_changed(one: Manifest, other: Manifest) -> bool:
    before, after = one["metadata"], other["metadata"]
    return bool(before["uid"] != after["uid"] or before.get("generation") != after.get("generation"))
