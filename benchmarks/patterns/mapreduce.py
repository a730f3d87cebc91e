"""Map-reduce by the operator's own services on this machine, beside Celery's chord on the same workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import yaml
from celery import Celery, chord

from benchmarks.patterns.handles import forget_subscriptions, let_go
from celery_operator.local.manifests import Document
from celery_operator.local.outcome import outcome_of
from celery_operator.local.run import LocalRun, Options, discard, local_run
from celery_operator.services.ports import Manifest, ObjectKey
from servers import RedisServer, redis_server

WORKERS = 2
SLOTS = 2
"""Of each worker."""
SHARD_SECONDS = 0.2
ITEM_SECONDS = 0.0
START_SECONDS = 60.0
END_SECONDS = 600.0
LOOK_SECONDS = 0.005
"""How often a chord is asked whether it has ended; waiting for its result costs more than the chord itself."""
NAMESPACE = "default"

Say = Callable[[str], None]

_RESOURCES = """
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryApp
metadata: {name: bench}
spec:
  connection: {broker: {url: "URL/0"}, resultBackend: {url: "URL/1"}}
  application: celery_patterns.examples.app:app
---
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryWorkerPool
metadata: {name: bench}
spec: {appRef: {name: bench}, replicas: WORKERS, worker: {concurrency: SLOTS}}
"""


def measure_mapreduce(shards: int, items: int, repeats: int, say: Say) -> dict[str, Any]:
    """Return seconds: of shards that wait, against the least they can take; of many items, until they are submitted."""
    with redis_server() as redis:
        return asyncio.run(_measure(redis, shards, items, repeats, say))


async def _measure(redis: RedisServer, shards: int, items: int, repeats: int, say: Say) -> dict[str, Any]:
    documents = _documents(redis.url().rpartition("/")[0])
    found: dict[str, Any] = {"shards": {"workflow": [], "chord": []}, "items": {"workflow": [], "chord": []}}
    ideal = shards * SHARD_SECONDS / (WORKERS * SLOTS)
    options = Options(give_up_after=timedelta(seconds=END_SECONDS))
    async with local_run(documents, options, say) as run:
        bench = _Bench(run, redis)
        run.start(documents)
        await bench.wait_for_workers()
        await bench.workflow(50, ITEM_SECONDS)  # connections, imports
        await bench.chord(50, ITEM_SECONDS)
        for number in range(repeats):
            for kind, measure in (("workflow", bench.workflow), ("chord", bench.chord)):
                spent = await measure(shards, SHARD_SECONDS)
                spent["efficiency"] = round(ideal / spent["seconds"], 4)
                found["shards"][kind].append(spent)
                say(
                    f"{shards} shards of {SHARD_SECONDS * 1000:.0f} ms on {WORKERS * SLOTS} slots ({kind}, "
                    f"{number + 1}): {spent['seconds']:.2f} s, efficiency {spent['efficiency']:.1%}"
                )
        for kind, measure in (("workflow", bench.workflow), ("chord", bench.chord)):
            spent = await measure(items, ITEM_SECONDS)
            found["items"][kind].append(spent)
            say(f"{items} items ({kind}): submitted in {spent['submit_s']:.2f} s, done in {spent['seconds']:.1f} s")
        let_go(bench.app)
    discard(run)
    return found


def _documents(url: str) -> list[Document]:
    text = _RESOURCES.replace("URL", url).replace("WORKERS", str(WORKERS)).replace("SLOTS", str(SLOTS))
    pairs = zip(yaml.compose_all(text), yaml.safe_load_all(text), strict=True)
    return [Document("benchmark", number, manifest, node) for number, (node, manifest) in enumerate(pairs, 1)]


class _Bench:
    """The two ways to one map-reduce: ``examples.sleep`` for each item, then ``examples.total``."""

    def __init__(self, run: LocalRun, redis: RedisServer) -> None:
        self._run = run
        self.app = Celery("bench", broker=redis.url(0), backend=redis.url(1), set_as_current=False)
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        run.cluster.watch(lambda *_: self._changed.set())

    async def wait_for_workers(self) -> None:
        """Wait until all workers consume."""

        def ready() -> bool:
            return any((pool.get("status") or {}).get("readyReplicas") == WORKERS for pool in self._run.pools())

        await self._until(ready, START_SECONDS, f"{WORKERS} workers are ready; see {self._run.directory}")

    async def workflow(self, count: int, seconds: float) -> dict[str, float]:
        """Run it as a CeleryWorkflow; submitted when its status says that it runs, and nobody need stay for it."""
        name = f"map-{next(self._numbers)}"
        began = time.perf_counter()
        self._run.cluster.store.create(_manifest(name, count, seconds))
        created = time.perf_counter() - began
        await self._until(lambda: self._phase(name) not in (None, "Pending"), END_SECONDS, f"{name} runs")
        submitted = time.perf_counter() - began
        await self._until(lambda: outcome_of(self._get(name)) is not None, END_SECONDS, f"{name} ends")
        ended = time.perf_counter() - began
        outcome = outcome_of(self._get(name))
        values = [output["value"] for output in self._get(name)["status"].get("outputs", ())]
        if outcome is None or not outcome.succeeded or values != [_total(count, seconds)]:
            raise AssertionError(f"{name} was to return {_total(count, seconds)}, got {values}: {outcome}")
        return {"create_s": round(created, 5), "submit_s": round(submitted, 4), "seconds": round(ended, 4)}

    async def chord(self, count: int, seconds: float) -> dict[str, float]:
        """Run it as a chord; it is submitted when ``apply_async`` returns."""
        return await asyncio.to_thread(self._chord, count, seconds)

    def _chord(self, count: int, seconds: float) -> dict[str, float]:
        header = [self.app.signature("examples.sleep", (seconds,)) for _ in range(count)]
        began = time.perf_counter()
        result = chord(header, app=self.app)(self.app.signature("examples.total"))
        submitted = time.perf_counter() - began
        waiting = self.app.AsyncResult(result.id)
        while not waiting.ready():
            if time.perf_counter() - began > END_SECONDS:
                raise AssertionError(f"a chord of {count} did not end within {END_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
        ended = time.perf_counter() - began
        if waiting.result != _total(count, seconds):
            raise AssertionError(f"a chord was to return {_total(count, seconds)}, got {waiting.result}")
        forget_subscriptions(self.app)
        return {"submit_s": round(submitted, 4), "seconds": round(ended, 4)}

    def _get(self, name: str) -> Manifest:
        found = self._run.cluster.store.get("CeleryWorkflow", ObjectKey(NAMESPACE, name))
        if found is None:
            raise AssertionError(f"the workflow {name} has gone")
        return found

    def _phase(self, name: str) -> str | None:
        phase: str | None = (self._get(name).get("status") or {}).get("phase")
        return phase

    async def _until(self, check: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not check():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds:.0f} s: {what}") from None


def _total(count: int, seconds: float) -> float:
    return sum([seconds] * count)


def _manifest(name: str, count: int, seconds: float) -> Manifest:
    work = {
        "items": {"range": {"start": 0, "end": count}},
        "map": {"name": "examples.sleep", "args": [{"value": seconds}]},
        "reduce": {"name": "examples.total"},
    }
    return {
        "apiVersion": "celery-operator.dev/v1alpha1",
        "kind": "CeleryWorkflow",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "appRef": {"name": "bench"},
            "mapReduce": work,
            "outputs": [{"name": "total", "valueFrom": {"result": "$"}}],
        },
    }
