"""kopf over real HTTP against an emulated Kubernetes API: what it watches, and that it writes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import kmock
import pytest

from celery_operator.handlers.registry import KINDS
from celery_operator.handlers.runner import watch
from kubeconfigs import write_kubeconfig
from servers_process import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore:read_binary is deprecated")  # kmock 0.8 loads its own data so

PREFIX = "celery-operator.dev/v1alpha1"
STOP_SECONDS = 20.0
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete"}


class Seen(list[tuple[str, str, bool]]):
    """What the watch reported: (kind, name, deleted)."""

    def observe(self, kind: str, manifest: dict[str, Any], deleted: bool) -> None:  # noqa: FBT001 - the contract
        assert manifest["spec"] == {"x": 1}
        self.append((kind, manifest["metadata"]["name"], deleted))

    async def until(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE * 10.0  # noqa: TID251 - a deadline of the test itself
        while not check():
            assert time.monotonic() < deadline, f"reported so far: {self}"  # noqa: TID251
            await asyncio.sleep(0.01)


@pytest.fixture
def api(kmock: kmock.KubernetesEmulator) -> kmock.KubernetesEmulator:
    """An API server that knows our three kinds."""
    kmock.resources.load_bundled()
    for plural, kind in KINDS.items():
        resource = kmock.resources[f"{PREFIX}/{plural}"]
        resource.kind, resource.singular, resource.namespaced, resource.verbs = kind, kind.lower(), True, VERBS
    return kmock


@asynccontextmanager
async def watching(url: str, directory: Path, seen: Seen, namespaces: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """Watch that API in the block; no waiting at its end is longer than STOP_SECONDS."""
    kubeconfig = write_kubeconfig(directory, url)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        watch(
            seen.observe,
            namespaces=namespaces,
            kubeconfig=str(kubeconfig),
            identity="pod-1",
            stop=stop,
            ready=ready,
        )
    )
    try:
        await asyncio.wait_for(ready.wait(), 10.0)
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, STOP_SECONDS)


async def create(session: aiohttp.ClientSession, plural: str, name: str, namespace: str = "shop") -> None:
    body = {
        "apiVersion": PREFIX,
        "kind": KINDS[plural],
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{plural}-{name}", "resourceVersion": "1"},
        "spec": {"x": 1},
    }
    async with session.post(f"/apis/{PREFIX}/namespaces/{namespace}/{plural}", json=body) as answer:
        assert answer.status < 300


async def test_each_kind_is_reported_when_it_appears_and_when_it_goes_and_nothing_is_written(
    api: kmock.KubernetesEmulator, tmp_path: Path
) -> None:
    seen = Seen()
    url = str(api.url)
    async with aiohttp.ClientSession(base_url=url) as session:
        await create(session, "celeryapps", "before")
        async with watching(url, tmp_path, seen):
            await seen.until(lambda: ("CeleryApp", "before", False) in seen)
            for plural in KINDS:
                await create(session, plural, "new")
            await seen.until(
                lambda: {("CeleryWorkflow", "new", False), ("CeleryWorkerPool", "new", False)} <= set(seen)
            )
            async with session.delete(f"/apis/{PREFIX}/namespaces/shop/celeryworkflows/new") as answer:
                assert answer.status < 300
            await seen.until(lambda: ("CeleryWorkflow", "new", True) in seen)
    written = [r for r in api if r.method in ("PATCH", "PUT")]
    assert written == [], "an event handler alone adds no finalizer and no annotation"


async def test_a_namespaced_operator_sees_its_namespaces_only(api: kmock.KubernetesEmulator, tmp_path: Path) -> None:
    seen = Seen()
    async with (
        aiohttp.ClientSession(base_url=str(api.url)) as session,
        watching(str(api.url), tmp_path, seen, namespaces=("shop", "depot")),
    ):
        await create(session, "celeryapps", "elsewhere", namespace="other")
        await create(session, "celeryapps", "one", namespace="shop")
        await create(session, "celeryapps", "two", namespace="depot")
        await seen.until(lambda: len(seen) >= 2)
    assert {name for _, name, _ in seen} == {"one", "two"}
    assert not [r for r in api if "/other/" in str(r.url) and r.method == "GET"]
