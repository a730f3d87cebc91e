"""Real servers for tests: a private Redis, RabbitMQ or Celery worker on free loopback ports, gone when the test is.

Each is a context manager: it yields when the process answers, and it never outlives the ``with`` block. Nothing here
sleeps to synchronise: every wait polls for a fact, with a deadline.

    with redis_server() as redis, celery_worker(broker=redis.url(0), backend=redis.url(1)) as worker:
        worker.state().ready
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis

from celery_patterns import protocol

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
"""How long a Redis or a worker may take until it answers; a loaded two-core machine needs a few seconds."""
RABBITMQ_START_SECONDS = 90.0
STOP_SECONDS = 10.0
"""How long a process may take to end by itself before it is killed."""
TOKEN = "test-token"
"""Bearer token of the agents started here."""
EXAMPLES_APP = "celery_patterns.examples.app:app"


def eventually(
    check: Callable[[], T], *, within: float = 10.0, every: float = 0.02, what: str | Callable[[], str] = ""
) -> T:
    """Call ``check`` until it returns something true, and return that.

    Raises AssertionError with ``what`` (or the last exception ``check`` raised) after ``within`` seconds.
    """
    deadline = time.monotonic() + within  # noqa: TID251 - the deadline of a real process is real time
    last: Any = None
    while True:
        try:
            answer = check()
            if answer:
                return answer
            last = answer
        except Exception as error:  # noqa: BLE001 - the reason is in the message if the deadline passes
            last = error
        if time.monotonic() >= deadline:  # noqa: TID251 - see above
            said = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {said or check}; last seen: {last!r}")
        time.sleep(every)


def free_port() -> int:
    """Return a loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, its output appended to ``log``; end it and all it started.

    The kernel kills it, too, if the test process dies without cleaning up (only where the main thread starts it,
    since the kernel watches the thread).
    """
    tied = ["setpriv", "--pdeathsig", "KILL"] if _can_tie() else []
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*tied, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _can_tie() -> bool:
    return shutil.which("setpriv") is not None and threading.current_thread() is threading.main_thread()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever is left of its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    _kill_session(process.pid)
    process.wait(STOP_SECONDS)


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


# --------------------------------------------------------------------------------------------------------------- Redis


@dataclass
class RedisServer:
    """A private redis-server; it can be stopped and started again on the same port, to see what happens without it."""

    port: int
    directory: Path
    arguments: tuple[str, ...]
    _stack: ExitStack = field(default_factory=ExitStack)

    def url(self, db: int = 0) -> str:
        """Return the URL of one of its databases."""
        return f"redis://{LOOPBACK}:{self.port}/{db}"

    @contextmanager
    def client(self, db: int = 0) -> Iterator[redis.Redis]:
        """Give a client of one database (bytes in, bytes out), closed at the end."""
        client = redis.Redis(host=LOOPBACK, port=self.port, db=db, socket_timeout=10)
        try:
            yield client
        finally:
            client.close()

    def start(self) -> None:
        """Start it (again); returns when it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.directory)]
        options = ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.arguments]
        process = self._stack.enter_context(running([*command, *options], log=self.directory / "redis.log"))

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"redis-server ended with {process.returncode}: {self.log()}")
            with self.client() as client:
                return bool(client.ping())

        eventually(answers, within=START_SECONDS, what="redis-server answers")

    def stop(self) -> None:
        """Stop it as a crash would: what it held is gone unless it was told to save."""
        self._stack.close()

    def log(self) -> str:
        """Return what it has written so far."""
        return (self.directory / "redis.log").read_text(errors="replace")


@contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    """Start a Redis without persistence; extra arguments go to redis-server (``"--maxclients", "50"``)."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(port=free_port(), directory=Path(directory), arguments=arguments)
        try:
            server.start()
            yield server
        finally:
            server.stop()


# ------------------------------------------------------------------------------------------------------------ RabbitMQ


@dataclass
class RabbitServer:
    """A private RabbitMQ node with the guest user on loopback."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    def url(self, vhost: str = "") -> str:
        """Return the AMQP URL."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/{vhost}"

    def log(self) -> str:
        """Return what the node has written so far."""
        return (self.directory / "rabbitmq.log").read_text(errors="replace")


@contextmanager
def rabbitmq_server() -> Iterator[RabbitServer]:
    """Start a RabbitMQ node of its own, with its own port mapper daemon; takes some ten seconds."""
    with tempfile.TemporaryDirectory(prefix="rabbitmq-") as name, ExitStack() as stack:
        directory = Path(name)
        port, epmd_port = free_port(), free_port()
        env = _rabbitmq_env(directory, port, epmd_port)
        log = directory / "rabbitmq.log"
        epmd = ["epmd", "-port", str(epmd_port), "-address", LOOPBACK]
        stack.enter_context(running(epmd, log=directory / "epmd.log", env=env))
        eventually(lambda: _accepts(epmd_port), within=START_SECONDS, what="epmd accepts connections")
        process = stack.enter_context(running([_rabbitmq_script()], log=log, env=env))
        server = RabbitServer(port=port, directory=directory, process=process)

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"rabbitmq-server ended with {process.returncode}")
            return "Server startup complete" in server.log() or "completed with" in server.log()

        eventually(ready, within=RABBITMQ_START_SECONDS, every=0.1, what=server.log)
        eventually(lambda: _accepts(port), within=START_SECONDS, what="RabbitMQ accepts connections")
        yield server


def _rabbitmq_script() -> str:
    """Return the node's own start script: the one in PATH wants root or the rabbitmq user on Debian."""
    packaged = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(packaged) if packaged.exists() else "rabbitmq-server"


def _rabbitmq_env(directory: Path, port: int, epmd_port: int) -> dict[str, str]:
    plugins = directory / "enabled_plugins"
    plugins.write_text("[].\n")
    conf = directory / "rabbitmq.conf"
    conf.write_text(f"listeners.tcp.1 = {LOOPBACK}:{port}\nloopback_users.guest = false\n")
    return {
        "PATH": f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(conf),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
    }


def _accepts(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=2):
        return True


# -------------------------------------------------------------------------------------------------------------- worker


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
        _kill_session(self.pid)
        self.process.wait(STOP_SECONDS)

    def stop(self, within: float = STOP_SECONDS) -> int:
        """SIGTERM (warm shutdown) and wait; returns the exit status."""
        self.process.terminate()
        return self.process.wait(within)

    def ready(self) -> bool:
        """Whether it consumes; raises RuntimeError with its log if it has ended instead."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log()}")
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
        command += ["-c", str(concurrency), "-l", loglevel, "--without-gossip", "--without-mingle"]
        command += ["-I", protocol.AGENT_MODULE] if agent else []
        with running([*command, *arguments], log=directory / "worker.log", env=environment, cwd=directory) as process:
            worker = Worker(process=process, directory=directory, agent=agent)
            try:
                if wait_ready:
                    eventually(worker.ready, within=START_SECONDS, what=worker.log)
                yield worker
            finally:
                worker.kill()
