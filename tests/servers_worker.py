"""A real ``celery worker`` process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from celery_patterns import protocol
from servers_process import (
    LOOPBACK,
    START_SECONDS,
    STOP_SECONDS,
    eventually,
    free_port,
    kill_session,
    must_run,
    running,
)

TOKEN = "test-token"
"""Bearer token of the agents started here."""
EXAMPLES_APP = "celery_patterns.examples.app:app"


@dataclass
class Worker:
    """A real ``celery worker`` process; with the agent it can be asked for its state."""

    process: subprocess.Popen[bytes]
    directory: Path
    agent: bool

    @property
    def pid(self) -> int:
        """The main process."""
        return self.process.pid

    def log(self) -> str:
        """Return what the worker has written so far."""
        return (self.directory / "worker.log").read_text(errors="replace")

    @property
    def address(self) -> str:
        """``host:port`` of the agent."""
        return (self.directory / "address").read_text().strip()

    def request(self, path: str, *, post: bool = False, token: str | None = TOKEN) -> tuple[int, str]:
        """Ask the agent; return the HTTP status and the body. ``token=None`` sends none."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            data=b"" if post else None,
            headers=headers,
            method="POST" if post else "GET",
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code), error.read().decode()

    def state(self) -> protocol.WorkerState:
        """Return what the worker says it holds and runs."""
        return protocol.WorkerState.from_json(json.loads(self.request(protocol.PATH_STATE)[1]))

    def wait_state(self, fits: Callable[[protocol.WorkerState], bool], *, within: float = 10.0) -> protocol.WorkerState:
        """Wait for an answer that fits, and return it: all that it says is of one moment, as two answers are not."""
        answers: list[protocol.WorkerState] = []

        def answered() -> bool:
            answers[:] = [self.state()]
            return fits(answers[0])

        eventually(answered, within=within, what=lambda: f"{answers}\n{self.log()}")
        return answers[0]

    def drain(self) -> protocol.WorkerState:
        """Tell it to stop consuming; answers at once."""
        status, body = self.request(protocol.PATH_DRAIN, post=True)
        assert status == 200, (status, body)
        return protocol.WorkerState.from_json(json.loads(body))

    def resume(self) -> protocol.WorkerState:
        """Tell it to consume again."""
        status, body = self.request(protocol.PATH_RESUME, post=True)
        assert status == 200, (status, body)
        return protocol.WorkerState.from_json(json.loads(body))

    def children(self) -> list[int]:
        """Return the pids of the main process's children (prefork's slots)."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def kill(self) -> None:
        """SIGKILL the worker and all its children, as the loss of a pod would; waits until they are gone."""
        kill_session(self.pid)
        self.process.wait(STOP_SECONDS)

    def stop(self, within: float = STOP_SECONDS) -> int:
        """SIGTERM (warm shutdown) and wait; returns the exit status."""
        self.process.terminate()
        return self.process.wait(within)

    def ready(self) -> bool:
        """Whether it consumes; raises ProcessEndedError with its log if it has ended instead."""
        must_run(self.process, self.directory / "worker.log")
        if self.agent:
            return self.request(protocol.PATH_READY)[0] == 200
        return " ready." in self.log()


@contextmanager
def celery_worker(
    *,
    broker: str,
    backend: str,
    app: str = EXAMPLES_APP,
    queues: str = "celery",
    pool: str = "prefork",
    concurrency: int = 1,
    name: str | None = None,
    agent: bool = True,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python_path: Path | None = None,
    wait_ready: bool = True,
    loglevel: str = "INFO",
    launcher: Sequence[str] = (sys.executable, "-m", "celery"),
    talkative: bool = False,
) -> Iterator[Worker]:
    """Start a ``celery worker`` of ``app`` and yield it when it consumes; it is killed at the end of the block.

    A test that wants the warm shutdown calls ``Worker.stop()``.

    Args:
        broker: URL of the broker, given to the worker as CELERY_BROKER_URL.
        backend: URL of the result backend, given as CELERY_RESULT_BACKEND.
        app: What ``celery -A`` gets; it must read the two variables above.
        queues: Comma-separated queue names.
        pool: prefork, threads, solo, gevent or eventlet.
        concurrency: Slots.
        name: Node name (``name@localhost``); a unique one by default.
        agent: Whether the worker has the agent (then ready means its readiness answers 200).
        arguments: More command line arguments of ``celery worker``.
        env: More environment variables.
        python_path: A directory to import the app from.
        wait_ready: False yields at once.
        loglevel: Of the worker's log, which ``Worker.log()`` returns.
        launcher: The command that is ``celery``.
        talkative: Whether it talks to other workers, which is Celery's default and delays its start.
    """
    with tempfile.TemporaryDirectory(prefix="worker-") as directory_name:
        directory = Path(directory_name)
        token_file = directory / "token"
        token_file.write_text(TOKEN)
        environment = {**os.environ, "CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": backend}
        environment |= {
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(python_path or ""), os.environ.get("PYTHONPATH", "")])),
            protocol.ENV_AGENT_HOST: LOOPBACK,
            protocol.ENV_AGENT_PORT: "0",
            protocol.ENV_AGENT_ADDRESS_FILE: str(directory / "address"),
            protocol.ENV_AGENT_TOKEN_FILE: str(token_file),
            **(env or {}),
        }
        node = name or f"w{free_port()}@localhost"
        command = [*launcher, "-A", app, "worker", "-Q", queues, "-P", pool, "-n", node]
        command += ["-c", str(concurrency), "-l", loglevel]
        command += [] if talkative else ["--without-gossip", "--without-mingle"]
        command += ["-I", protocol.AGENT_MODULE] if agent else []
        with running([*command, *arguments], log=directory / "worker.log", env=environment, cwd=directory) as process:
            worker = Worker(process=process, directory=directory, agent=agent)
            try:
                if wait_ready:
                    eventually(worker.ready, within=START_SECONDS, what=worker.log)
                yield worker
            finally:
                worker.kill()
