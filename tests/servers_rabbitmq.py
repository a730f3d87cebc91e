"""A private RabbitMQ node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers_kinds import RabbitKind, every_rabbit, find_rabbit
from servers_process import LOOPBACK, START_SECONDS, eventually, free_port, must_run, running

RABBITMQ_START_SECONDS = 90.0


@dataclass
class RabbitServer:
    """A private RabbitMQ node with the guest user on loopback."""

    port: int
    directory: Path
    kind: RabbitKind
    process: subprocess.Popen[bytes]

    def url(self, vhost: str = "") -> str:
        """Return the AMQP URL."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/{vhost}"

    def log(self) -> str:
        """Return what the node has written so far."""
        return (self.directory / "rabbitmq.log").read_text(errors="replace")


@contextmanager
def rabbitmq_server(kind: RabbitKind | None = None, *, settings: str = "") -> Iterator[RabbitServer]:
    """Start a RabbitMQ node of its own, with its own port mapper daemon; takes some ten seconds.

    Args:
        kind: Its version; the first that the tests run on if None.
        settings: More lines of its ``rabbitmq.conf``.
    """
    kind = kind or every_rabbit()[0]
    script, path = _programs(kind)
    with tempfile.TemporaryDirectory(prefix="rabbitmq-") as name, ExitStack() as stack:
        directory = Path(name)
        port, epmd_port = free_port(), free_port()
        env = {**_rabbitmq_env(directory, port, epmd_port, settings), "PATH": path}
        log = directory / "rabbitmq.log"
        _start_port_mapper(stack, epmd_port, directory / "epmd.log", env)
        process = stack.enter_context(running([script], log=log, env=env))
        server = RabbitServer(port=port, directory=directory, kind=kind, process=process)

        def ready() -> bool:
            must_run(process, log)
            return "Server startup complete" in server.log() or "completed with" in server.log()

        eventually(ready, within=RABBITMQ_START_SECONDS, every=0.1, what=server.log)
        eventually(lambda: _accepts(port), within=START_SECONDS, what="RabbitMQ accepts connections")
        yield server


def _start_port_mapper(stack: ExitStack, port: int, log: Path, env: Mapping[str, str]) -> None:
    """Start Erlang's port mapper for one node, until the stack is closed."""
    process = stack.enter_context(running(["epmd", "-port", str(port), "-address", LOOPBACK], log=log, env=env))

    def ready() -> bool:
        must_run(process, log)
        return _accepts(port)

    eventually(ready, within=START_SECONDS, what="epmd accepts connections")


def _programs(kind: RabbitKind) -> tuple[str, str]:
    """Return the node's start script, and the PATH on which it finds its Erlang.

    The script is the node's own: the one in PATH wants root or the rabbitmq user on Debian.

    Raises:
        RuntimeError: This machine has no RabbitMQ of that kind.
    """
    system = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
    root = find_rabbit(kind)
    if root is not None:
        folder = root / "usr/lib/rabbitmq/bin"
        return str(folder / "rabbitmq-server"), f"{folder}:{root / 'usr/lib/erlang/bin'}:{system}"
    if kind is not every_rabbit()[0] or shutil.which("rabbitmq-server", path=system) is None:
        raise RuntimeError(f"no RabbitMQ {kind.major} on this machine: call `make system`, which fetches it")
    return "rabbitmq-server", system


def _rabbitmq_env(directory: Path, port: int, epmd_port: int, settings: str) -> dict[str, str]:
    plugins = directory / "enabled_plugins"
    plugins.write_text("[].\n")
    conf = directory / "rabbitmq.conf"
    conf.write_text(f"listeners.tcp.1 = {LOOPBACK}:{port}\nloopback_users.guest = false\n{settings}\n")
    return {
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "ERL_CRASH_DUMP": str(directory / "erl_crash.dump"),
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
