"""A private RabbitMQ node."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers_process import LOOPBACK, START_SECONDS, eventually, free_port, running

RABBITMQ_START_SECONDS = 90.0


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
