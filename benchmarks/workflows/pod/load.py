"""The load, from a pod on the node's own network: creates resources, watches them end, reads the workers' own times.

``load.py chain KIND STEPS``, ``load.py many KIND COUNT``, ``load.py fanout KIND COUNT``, ``load.py messages COUNT``
print one JSON document. KIND is ``workflow`` or ``bare``; ``messages`` sends tasks without any operator.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import ssl
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import celery
import redis

from celery_patterns.protocol import RESULT_KEY_PREFIX, task_id

NAMESPACE = os.environ["NAMESPACE"]
BROKER_URL, BACKEND_URL = os.environ["BROKER_URL"], os.environ["BACKEND_URL"]
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUPS = {
    "workflow": ("celery-operator.dev/v1alpha1", "CeleryWorkflow", "celeryworkflows"),
    "bare": ("bench.celery-operator.dev/v1", "BareWorkflow", "bareworkflows"),
}
CLIENTS = 4
"""Resources are created over so many connections at once: more than an operator on two cores keeps up with."""
END_SECONDS = 600.0
"""Nothing that is measured here takes longer, or something is broken."""
READY_SECONDS = 30.0
_NAME = re.compile(rb'"name":"(load-[0-9a-z-]+)"')
_SUCCEEDED = b'"phase":"Succeeded"'
_FAILED = b'"phase":"Failed"'

Spec = dict[str, Any]


def add(left: Any, right: Any = 1) -> Spec:
    """Return the task that all work here consists of."""
    return {"name": "examples.add", "args": [left, {"value": right}]}


def chain_spec(kind: str, steps: int) -> Spec:
    """Return a resource's spec: so many additions, one after the other."""
    if kind == "bare":
        return {"steps": steps}
    first = {"task": add({"value": 0})}
    following = {"task": {"name": "examples.add", "args": [{"value": 1}]}}
    return {"appRef": {"name": "bench"}, "chain": [first, *[following] * (steps - 1)]}


def fan_out_spec(count: int) -> Spec:
    """Return a workflow of so many independent additions."""
    numbers = {"items": {"range": {"start": 0, "end": count}}, "task": add({"valueFrom": {"item": "$"}})}
    return {"appRef": {"name": "bench"}, "dag": {"steps": [{"name": "numbers", "map": numbers}]}}


class Api:
    """The cluster, as this pod's service account."""

    def __init__(self, session: aiohttp.ClientSession, kind: str) -> None:
        self._session = session
        self._version, self._kind, plural = GROUPS[kind]
        self.path = f"/apis/{self._version}/namespaces/{NAMESPACE}/{plural}"

    async def create(self, name: str, spec: Spec) -> str:
        """Create a resource; return its uid."""
        metadata = {"name": name, "namespace": NAMESPACE}
        body = {"apiVersion": self._version, "kind": self._kind, "metadata": metadata, "spec": spec}
        async with self._session.post(self.path, json=body) as answer:
            document = await answer.json()
            if answer.status >= 400:
                raise RuntimeError(f"{name} was refused: {document}")
            return str(document["metadata"]["uid"])

    async def get(self, name: str) -> dict[str, Any]:
        """Return a resource."""
        async with self._session.get(f"{self.path}/{name}") as answer:
            document: dict[str, Any] = await answer.json()
            return document

    async def delete_all(self) -> None:
        """Delete all resources of the kind here, and wait until they are gone."""
        async with self._session.delete(self.path) as answer:
            await answer.read()

    async def watch(self, path: str, ready: asyncio.Event) -> AsyncIterator[bytes]:
        """Yield the lines of a watch from now on; ``ready`` is set when nothing can be missed any more."""
        async with self._session.get(f"{path}?limit=1") as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds={END_SECONDS:.0f}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path + query, timeout=timeout) as stream:
            ready.set()
            rest = b""
            async for chunk in stream.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line


class Ending:
    """Watches a number of resources end, and counts how often each was written."""

    def __init__(self, api: Api, names: set[str]) -> None:
        self._api = api
        self._open = names
        self.ended: dict[str, float] = {}
        """Name to the moment at which the watch showed its end."""
        self.writes = 0
        """Changes of the resources after their creation, and every change of a ConfigMap beside them."""
        self._ready = [asyncio.Event(), asyncio.Event()]
        maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        self._counting: asyncio.Task[Any] = asyncio.create_task(self._count_maps(api.watch(maps, self._ready[1])))
        self._watching: asyncio.Task[Any] = asyncio.create_task(self._follow(api.watch(api.path, self._ready[0])))

    async def ready(self) -> None:
        """Wait until nothing can be missed. Raises what ended a watch before it began."""
        for each, watching in zip(self._ready, (self._watching, self._counting), strict=True):
            begun: asyncio.Task[Any] = asyncio.create_task(each.wait())
            await asyncio.wait({begun, watching}, return_when=asyncio.FIRST_COMPLETED, timeout=READY_SECONDS)
            if not each.is_set():
                watching.cancel()
                await watching

    async def wait(self, on_progress: Callable[[int], None] = lambda _: None) -> None:
        """Wait until all have ended."""
        deadline = time.perf_counter() + END_SECONDS
        while not self._watching.done():
            await asyncio.wait({self._watching}, timeout=1)
            on_progress(len(self.ended))
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(self._open)} did not end, such as {sorted(self._open)[:3]}")
        await self._watching
        await asyncio.sleep(0.5)  # writes after the end count too
        self._counting.cancel()

    async def _count_maps(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self.writes += line.startswith(b'{"type":')

    async def _follow(self, lines: AsyncIterator[bytes]) -> None:
        # Lines are searched, not parsed: the load must not cost more than what it measures.
        async for line in lines:
            found = _NAME.search(line)
            if found is None:
                continue
            name = found[1].decode()
            self.writes += line.startswith(b'{"type":"MODIFIED"')
            if _FAILED in line:
                raise RuntimeError(f"{name} failed: {line.decode()}")
            if _SUCCEEDED in line and name in self._open:
                self._open.discard(name)
                self.ended[name] = time.perf_counter()
                if not self._open:
                    return


def progress(total: int) -> Callable[[int], None]:
    """Return what shows how many have ended, on a terminal's error output."""

    def show(done: int) -> None:
        print(f"\r    {done}/{total} ", end="", file=sys.stderr, flush=True)

    return show


async def chain(session: aiohttp.ClientSession, kind: str, steps: int) -> dict[str, Any]:
    """Run one chain; return the milliseconds between the workers' finishes of consecutive steps."""
    api, name = Api(session, kind), f"load-{uuid.uuid4().hex[:12]}"
    ending = Ending(api, {name})
    await ending.ready()
    begun = time.perf_counter()
    uid = await api.create(name, chain_spec(kind, steps))
    await ending.wait()
    seconds = ending.ended[name] - begun
    if kind == "bare":
        ids = [str(uuid.uuid5(uuid.UUID(uid), str(step))) for step in range(steps)]
    else:
        names = [step["name"] for step in (await api.get(name))["status"]["steps"]]
        ids = [task_id(uid, 1, step, 0, 1) for step in names]
    times = finish_times(ids)
    return {"seconds": seconds, "step_ms": [(b - a) * 1000 for a, b in itertools.pairwise(times)]}


def finish_times(ids: list[str]) -> list[float]:
    """Return when the workers stored each result, by their own note in it."""
    with redis.Redis.from_url(BACKEND_URL) as client:
        stored = client.mget([RESULT_KEY_PREFIX + each for each in ids])
    return [datetime.fromisoformat(json.loads(raw)["date_done"]).timestamp() for raw in stored]


async def many(session: aiohttp.ClientSession, kind: str, count: int) -> dict[str, Any]:
    """Run many workflows of one task; return the time from the first creation to the last end, and all writes."""
    api, run = Api(session, kind), uuid.uuid4().hex[:6]
    names = [f"load-{run}-{index}" for index in range(count)]
    ending = Ending(api, set(names))
    await ending.ready()
    spec, left = chain_spec(kind, 1), iter(names)

    async def client() -> None:
        for name in left:
            await api.create(name, spec)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    created = time.perf_counter() - begun
    await ending.wait(progress(count))
    return {
        "seconds": max(ending.ended.values()) - begun,
        "create_seconds": created,
        "writes_per_workflow": ending.writes / count,
    }


async def fanout(session: aiohttp.ClientSession, kind: str, count: int) -> dict[str, Any]:
    """Run one workflow of many tasks; return its time from creation to end, and its status' size in bytes."""
    api, name = Api(session, kind), f"load-{uuid.uuid4().hex[:12]}"
    ending = Ending(api, {name})
    await ending.ready()
    begun = time.perf_counter()
    await api.create(name, fan_out_spec(count))
    await ending.wait()
    status = (await api.get(name))["status"]
    return {
        "seconds": ending.ended[name] - begun,
        "status_bytes": len(json.dumps(status, separators=(",", ":")).encode()),
        "succeeded": status["tasks"]["succeeded"],
        "writes": ending.writes,
    }


def messages(count: int) -> dict[str, Any]:
    """Send so many tasks bare, over one connection, with one subscription for all results; return the time."""
    # Without a result backend, Celery subscribes to nothing for each task: the one subscription below hears them all.
    app = celery.Celery(broker=BROKER_URL)
    client = redis.Redis.from_url(BACKEND_URL)
    channel: Any = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    channel.psubscribe(RESULT_KEY_PREFIX + "*")
    channel.get_message(timeout=1)
    ids = {str(uuid.uuid4()) for _ in range(count)}
    missing = set(ids)

    def listen() -> None:
        for message in channel.listen():
            if json.loads(message["data"])["status"] == "SUCCESS":
                missing.discard(message["channel"].decode().removeprefix(RESULT_KEY_PREFIX))
            if not missing:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    begun = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for index, each in enumerate(ids):
            app.send_task("examples.add", args=(index, 1), task_id=each, producer=producer)
    sent = time.perf_counter() - begun
    listener.join(END_SECONDS)
    if missing:
        raise TimeoutError(f"{len(missing)} of {count} results were not heard")
    return {"seconds": time.perf_counter() - begun, "send_seconds": sent}


async def main(action: str, kind: str, count: int) -> dict[str, Any]:
    """Do one thing."""
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(
        "https://kubernetes.default.svc", headers=headers, connector=connector, read_bufsize=1 << 22
    ) as session:
        if action == "clear":
            await Api(session, kind).delete_all()
            return {}
        return await {"chain": chain, "many": many, "fanout": fanout}[action](session, kind, count)


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "messages":
        print(json.dumps(messages(int(arguments[0]))))
    else:
        print(json.dumps(asyncio.run(main(action, arguments[0], int(arguments[1])))))
