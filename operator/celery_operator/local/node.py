"""Runs pods as processes: what the kubelet does, for one container each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import socket
from asyncio import FIRST_COMPLETED
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp

from celery_operator.local.container import Launch, LaunchError, ports_of, prepare, probe_url
from celery_operator.local.hosts import HostMap
from celery_operator.local.objects import ObjectStore, timestamp
from celery_operator.local.process import GuardedProcess
from celery_operator.services.ports import Clock, Manifest, ObjectKey

PROBE_SECONDS = 0.2
"""Between two looks at a worker that is not ready yet, so that a run begins soon."""
READY_PROBE_SECONDS = 1.0
"""The same of a ready one: each look takes a few milliseconds from what the machine's cores do."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=1.0)
FIRST_RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
"""A worker that ends is started again after 1, 2, 4, … 30 seconds, as the kubelet does more slowly."""
HEALTHY_SECONDS = 60.0
"""A worker that ran this long starts again without a longer wait."""
LOG_TAIL_BYTES = 4000

logger = logging.getLogger(__name__)


class Node:
    """The machine: starts, watches, restarts and ends the processes of pods, and reports their status."""

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        directory: Path,
        hosts: HostMap,
        *,
        entrypoint: Sequence[str] = ("celery",),
        working_directory: Path | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.directory = directory
        self.hosts = hosts
        self.entrypoint = tuple(entrypoint)
        self.working_directory = working_directory
        self._addresses = _loopback_addresses()
        self._running: dict[str, _RunningPod] = {}
        self._http: aiohttp.ClientSession | None = None

    def start(self, pod: Manifest) -> None:
        """Begin to run a pod that stands in the store; returns at once."""
        running = _RunningPod(self, ObjectKey(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        uid = pod["metadata"]["uid"]
        self._running[uid] = running
        running.task = asyncio.create_task(running.run(), name=f"pod {running.key}")
        running.task.add_done_callback(lambda task: self._forget(uid, task))

    def end(self, pod: Manifest) -> None:
        """Begin to end a pod: preStop, SIGTERM, and SIGKILL when its grace period is over."""
        running = self._running.get(pod["metadata"]["uid"])
        if running is not None:
            running.deleted.set()

    async def close(self, grace_seconds: float) -> None:
        """End all pods without their hooks: SIGTERM now, SIGKILL after ``grace_seconds``; returns when all are gone."""
        for running in self._running.values():
            running.hurry(grace_seconds)
        tasks = [running.task for running in self._running.values() if running.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    def kill(self) -> None:
        """Kill all processes of all pods now."""
        for running in self._running.values():
            running.kill()

    def _forget(self, uid: str, task: asyncio.Task[None]) -> None:
        self._running.pop(uid, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended: %s", task.get_name(), task.exception(), exc_info=task.exception())

    def free_address(self, pod: Manifest) -> str:
        """Return a loopback address where the pod's ports are free."""
        ports = ports_of(pod["spec"])
        return next(address for address in self._addresses if all(_is_free(address, port) for port in ports))

    def log_of(self, pod_name: str) -> Path:
        """Return the file that a pod's output goes to."""
        return self.directory / "logs" / f"{pod_name}.log"

    async def answers(self, url: str) -> bool:
        """Whether a GET answers 2xx or 3xx in time."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=PROBE_TIMEOUT)
        try:
            async with self._http.get(url) as response:
                return 200 <= response.status < 400
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


class _RunningPod:
    """One pod's life."""

    def __init__(self, node: Node, key: ObjectKey) -> None:
        self.node = node
        self.key = key
        self.deleted = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._process: GuardedProcess | None = None
        self._hurried = asyncio.Event()
        self._short_grace = 0.0
        """Seconds that are left between SIGTERM and SIGKILL once somebody is in a hurry."""
        self._restarts = 0
        self._backoff = FIRST_RESTART_SECONDS

    def hurry(self, grace_seconds: float) -> None:
        self._short_grace = grace_seconds
        self._hurried.set()
        self.deleted.set()

    def kill(self) -> None:
        self.hurry(0.0)
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        """Run until deleted, then take the pod out of the store."""
        directory = self.node.directory / "pods" / self.key.name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.node.log_of(self.key.name).parent.mkdir(parents=True, exist_ok=True)
            while not self.deleted.is_set():
                await self._once(directory)
        finally:
            self.kill()
            if self._process is not None:
                await asyncio.shield(self._process.wait())
            shutil.rmtree(directory, ignore_errors=True)
            self.node.store.remove("Pod", self.key)

    async def _once(self, directory: Path) -> None:
        """Start the container and stay with it until it has ended; then wait before the next start."""
        pod = self.node.store.get("Pod", self.key)
        if pod is None:
            self.deleted.set()
            return
        try:
            launch = prepare(pod, self.node.store.get, directory, self.node.hosts, self.node.entrypoint)
        except LaunchError as error:
            self._report(waiting=(error.reason, str(error)))
            await self._pause()
            return
        began = asyncio.get_running_loop().time()
        log = self.node.log_of(self.key.name)
        cwd = self.node.working_directory
        try:
            process = await GuardedProcess.start(launch.command, log=log, env=launch.env, cwd=cwd)
        except OSError as error:
            self._report(waiting=("RunContainerError", str(error)))
            await self._pause()
            return
        self._process = process
        self._report(running=True)
        status = await self._stay(process, launch, pod)
        self._process = None
        if self.deleted.is_set():
            return
        if asyncio.get_running_loop().time() - began >= HEALTHY_SECONDS:
            self._backoff = FIRST_RESTART_SECONDS
        self._restarts += 1
        self._report(waiting=("CrashLoopBackOff", f"ended with status {status}"), exit_code=status)
        await self._pause()

    async def _stay(self, process: GuardedProcess, launch: Launch, pod: Manifest) -> int:
        ended = asyncio.create_task(process.wait())
        probing = asyncio.create_task(self._probe(launch))
        deleted = asyncio.create_task(self.deleted.wait())
        try:
            await asyncio.wait((ended, deleted), return_when=FIRST_COMPLETED)
            if not ended.done():
                await self._end(process, launch, pod, ended)
            return await ended
        finally:
            for task in (probing, deleted):
                task.cancel()
            await asyncio.gather(probing, deleted, return_exceptions=True)

    async def _probe(self, launch: Launch) -> None:
        """Report readiness whenever it changes."""
        started = False
        while True:
            started = started or launch.startup is None or await self.node.answers(launch.startup)
            ready = started and (launch.readiness is None or await self.node.answers(launch.readiness))
            self._report(ready=ready, started=started)
            await asyncio.sleep(READY_PROBE_SECONDS if ready else PROBE_SECONDS)

    async def _end(self, process: GuardedProcess, launch: Launch, pod: Manifest, ended: asyncio.Task[int]) -> None:
        """PreStop and SIGTERM within the grace period, then SIGKILL; both are cut short if somebody is in a hurry."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + launch.grace_seconds
        hurried = asyncio.create_task(self._hurried.wait())
        hook = asyncio.create_task(self._pre_stop(launch, pod))
        try:
            await asyncio.wait((hook, ended, hurried), timeout=launch.grace_seconds, return_when=FIRST_COMPLETED)
            process.terminate()
            await asyncio.wait((ended, hurried), timeout=max(deadline - loop.time(), 0.0), return_when=FIRST_COMPLETED)
            if hurried.done():
                await asyncio.wait((ended,), timeout=min(self._short_grace, max(deadline - loop.time(), 0.0)))
            process.kill()
        finally:
            for task in (hook, hurried):
                task.cancel()
            await asyncio.gather(hook, hurried, return_exceptions=True)

    async def _pre_stop(self, launch: Launch, pod: Manifest) -> None:
        hook = launch.pre_stop or {}
        if "exec" in hook:
            command = hook["exec"]["command"]
            running = await GuardedProcess.start(command, log=self.node.log_of(self.key.name), env=launch.env)
            try:
                await running.wait()
            finally:
                running.kill()
                await asyncio.shield(running.wait())
        elif "httpGet" in hook:
            container = next(c for c in pod["spec"]["containers"] if c["name"] == "worker")
            await self.node.answers(probe_url(pod, container, hook["httpGet"]))
        elif "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])

    async def _pause(self) -> None:
        """Wait before the next start, twice as long as the last time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff):
                await self.deleted.wait()
        self._backoff = min(self._backoff * 2, LONGEST_RESTART_SECONDS)

    def _report(
        self,
        *,
        ready: bool = False,
        started: bool = False,
        running: bool = False,
        waiting: tuple[str, str] | None = None,
        exit_code: int | None = None,
    ) -> None:
        """Bring the pod's status up to date."""
        now = timestamp(self.node.clock.now())

        def edit(pod: Manifest) -> None:
            status = pod["status"]
            before = status.get("containerStatuses", [{}])[0]
            state = before.get("state", {})
            if waiting is not None:
                state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
            elif running:
                state = {"running": {"startedAt": now}}
            container = {
                "name": "worker",
                "image": pod["spec"]["containers"][0].get("image", ""),
                "ready": ready,
                "started": started,
                "restartCount": self._restarts,
                "state": state,
            }
            last = before.get("lastState")
            if exit_code is not None:
                last = {
                    "terminated": {"exitCode": exit_code, "finishedAt": now, "reason": "Error" if exit_code else ""}
                }
            status["containerStatuses"] = [container | ({"lastState": last} if last else {})]
            status["phase"] = "Pending" if "waiting" in state and not self._restarts else "Running"
            status["conditions"] = _conditions(status.get("conditions", []), ready=ready, now=now)

        self.node.store.change("Pod", self.key, edit)


def _conditions(before: list[dict[str, str]], *, ready: bool, now: str) -> list[dict[str, str]]:
    """Return the pod's conditions; a time changes only with its status."""
    known = {condition["type"]: condition for condition in before}
    status = "True" if ready else "False"
    result = []
    for kind in ("Ready", "ContainersReady"):
        old = known.get(kind, {})
        since = old["lastTransitionTime"] if old.get("status") == status else now
        result.append({"type": kind, "status": status, "lastTransitionTime": since})
    return [*result, known.get("PodScheduled", {"type": "PodScheduled", "status": "True", "lastTransitionTime": now})]


def _loopback_addresses() -> Iterator[str]:
    """Yield addresses of 127.64.0.0/10 for ever, from a random one on: several local clusters may run side by side."""
    place = random.randrange(1 << 22)
    while True:
        place = (place + 1) % (1 << 22)
        if place % 256 not in (0, 255):
            yield f"127.{64 + (place >> 16)}.{(place >> 8) % 256}.{place % 256}"


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log; nothing if there is none."""
    try:
        with log.open("rb") as source:
            source.seek(0, 2)
            source.seek(max(source.tell() - LOG_TAIL_BYTES, 0))
            text = source.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
