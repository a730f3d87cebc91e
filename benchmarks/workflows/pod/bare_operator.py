"""The floor: a kopf script that publishes on an event and listens to the result backend, and can do nothing else.

No checkpoints, retries, sweeps, validation or claims; a restart forgets everything. A resource asks for ``spec.steps``
additions, one after the other, and its status says Succeeded at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import celery
import kopf
import redis.asyncio

PREFIX = "celery-task-meta-"
broker = celery.Celery(broker=os.environ["BROKER_URL"])
threads = ThreadPoolExecutor(4)
waiting: dict[str, asyncio.Future[int]] = {}
taken: set[str] = set()
kept: list[asyncio.Task[None]] = []


async def listen() -> None:
    """Hand every result to whoever waits for it."""
    channel = redis.asyncio.Redis.from_url(os.environ["BACKEND_URL"]).pubsub()
    await channel.psubscribe(PREFIX + "*")
    async for message in channel.listen():
        if message["type"] == "pmessage":
            future = waiting.pop(message["channel"].decode().removeprefix(PREFIX), None)
            if future is not None:
                future.set_result(json.loads(message["data"])["result"])


@kopf.on.startup()
async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Listen before anything is published."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    kept.append(asyncio.create_task(listen()))


@kopf.on.event("bench.celery-operator.dev", "v1", "bareworkflows")
async def run(body: kopf.Body, uid: str, spec: kopf.Spec, patch: kopf.Patch, event: Any, **_: Any) -> None:
    """Run all steps of a new resource, then note the end."""
    if event["type"] == "DELETED" or uid in taken or body.get("status"):
        return
    taken.add(uid)
    loop = asyncio.get_running_loop()
    value = 0
    for step in range(spec["steps"]):
        task_id = str(uuid.uuid5(uuid.UUID(uid), str(step)))
        future = waiting[task_id] = loop.create_future()
        await loop.run_in_executor(threads, send, task_id, value)
        value = await future
    patch.status["phase"] = "Succeeded"
    patch.status["value"] = value


def send(task_id: str, value: int) -> None:
    """Publish one addition."""
    broker.send_task("examples.add", args=(value, 1), task_id=task_id)
