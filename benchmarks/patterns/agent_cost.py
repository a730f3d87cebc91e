"""The agent: what a worker with it needs more than one without, and what a probe costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from benchmarks.series import summary
from celery_patterns import protocol
from servers import EXAMPLES_APP, RedisServer, Worker, celery_worker, eventually, redis_server

SLOTS = 2
TASKS = 200
"""Before memory is read: a worker that has never run anything has not loaded what it runs with."""
SETTLE_SECONDS = 2.0
IDLE_SECONDS = 20.0
PING_SECONDS = 60.0
MEGABYTE = 1_000_000

Say = Callable[[str], None]


def measure_agent(repeats: int, probes: int, pings: int, say: Say) -> dict[str, Any]:
    """Return memory and idle CPU of workers with and without the agent, side by side, and the cost of probes."""
    found: dict[str, Any] = {"megabytes": [], "cpu_percent": []}
    with redis_server() as redis:
        for number in range(repeats):
            say(f"two idle workers of {SLOTS} slots, {IDLE_SECONDS:.0f} s ({number + 1} of {repeats})")
            with _worker(redis, "stock", agent=False) as stock, _worker(redis, "ours", agent=True) as ours:
                for queue in ("stock", "ours"):
                    _exercise(redis, queue)
                both = {"stock": stock, "ours": ours}
                time.sleep(SETTLE_SECONDS)
                found["megabytes"].append({name: _megabytes(worker) for name, worker in both.items()})
                found["cpu_percent"].append(_idle(both))
                if number == repeats - 1:
                    found |= _probes(ours, probes)
                    found["inspect_ping"] = _pings(redis, pings)
    extra = [pair["ours"] - pair["stock"] for pair in found["megabytes"]]
    say(
        f"agent: {statistics.median(extra):.1f} MB more, "
        f"{statistics.median(pair['ours'] - pair['stock'] for pair in found['cpu_percent']):.2f} % of a core more; "
        f"a probe {found['probe']['p50']:.2f} ms"
    )
    return found


def _worker(redis: RedisServer, name: str, *, agent: bool) -> Any:
    options: dict[str, Any] = {"queues": name, "name": f"{name}@localhost", "concurrency": SLOTS, "agent": agent}
    return celery_worker(broker=redis.url(0), backend=redis.url(1), **options)


def _exercise(redis: RedisServer, queue: str) -> None:
    """Let a worker run some tasks, and wait for the last."""
    # Without a result backend of its own, which would listen for every single result.
    with Celery("exercise", broker=redis.url(0), set_as_current=False) as app, redis.client(1) as results:
        before = _count(results)
        for number in range(TASKS):
            app.send_task("examples.add", (number, 1), queue=queue)
        eventually(lambda: _count(results) >= before + TASKS, within=60, what=f"{TASKS} results of {queue}")


def _count(results: Redis) -> int:
    number: Any = results.dbsize()
    return int(number)


# ---- what a worker uses


def _processes(worker: Worker) -> list[int]:
    return [worker.pid, *worker.children()]


def _megabytes(worker: Worker) -> float:
    """Return the proportional set size of all its processes: what they share is counted once."""
    kilobytes = 0
    for pid in _processes(worker):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(kilobytes * 1024 / MEGABYTE, 2)


def _cpu_seconds(worker: Worker) -> float:
    """Return the processor time of all threads of all its processes, in nanoseconds' resolution."""
    threads = [thread for pid in _processes(worker) for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _idle(workers: dict[str, Worker]) -> dict[str, float]:
    """Return the share of a core that each uses while nothing is to do, in per cent."""
    began = time.perf_counter()
    before = {name: _cpu_seconds(worker) for name, worker in workers.items()}
    time.sleep(IDLE_SECONDS)
    seconds = time.perf_counter() - began
    return {name: round((_cpu_seconds(workers[name]) - before[name]) / seconds * 100, 3) for name in workers}


# ---- probes


def _probes(worker: Worker, count: int) -> dict[str, Any]:
    """Return the milliseconds of one probe, each over a connection of its own as kubelet's are."""
    spent = []
    for _ in range(20):
        worker.request(protocol.PATH_LIVE, token=None)
    before = _cpu_seconds(worker)
    for _ in range(count):
        began = time.perf_counter_ns()
        status, _body = worker.request(protocol.PATH_LIVE, token=None)
        spent.append((time.perf_counter_ns() - began) / 1e6)
        if status != 200:
            raise AssertionError(f"the agent's liveness answered {status}")
    cpu = (_cpu_seconds(worker) - before) / count * 1000
    return {"probe": summary(spent), "probe_worker_cpu_ms": round(cpu, 4)}


def _pings(redis: RedisServer, count: int) -> dict[str, Any]:
    """Return the milliseconds of ``celery inspect ping``: the probe that Celery's documentation offers."""
    command = [sys.executable, "-m", "celery", "-A", EXAMPLES_APP, "inspect", "ping", "-d", "stock@localhost"]
    environment = {**os.environ, "CELERY_BROKER_URL": redis.url(0), "CELERY_RESULT_BACKEND": redis.url(1)}
    walls, processors = [], []
    for _ in range(count):
        began = time.perf_counter_ns()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            process.returncode = 0  # collected here, or killed with this process
        if status:
            raise AssertionError(f"celery inspect ping ended with {os.waitstatus_to_exitcode(status)}")
        walls.append((time.perf_counter_ns() - began) / 1e6)
        processors.append((usage.ru_utime + usage.ru_stime) * 1000)
    return {"wall": summary(walls), "cpu_ms": summary(processors)}
