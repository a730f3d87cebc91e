"""A private sentinel that watches private servers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from servers_kinds import RedisKind, default_kind, program_of
from servers_process import LOOPBACK, START_SECONDS, eventually, free_port, must_run, running

DOWN_MS, TIMEOUT_MS = 300, 2_000
"""When it takes a server for gone, and when it tries once more to replace it: soon, for tests."""


@dataclass(frozen=True)
class Watched:
    """What a sentinel is told to watch."""

    port: int
    quorum: int = 1
    down_ms: int = DOWN_MS


@dataclass
class SentinelServer:
    """A private sentinel."""

    port: int
    directory: Path

    def log(self) -> str:
        """Return what it has written so far."""
        return (self.directory / "sentinel.log").read_text(errors="replace")

    def url(self, db: int = 0) -> str:
        """Return the URL of a database of what it watches."""
        return f"sentinel://{LOOPBACK}:{self.port}/{db}"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Give a client of the sentinel itself, closed at the end."""
        once = Retry(NoBackoff(), 0)
        client: Any = redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=10, decode_responses=True, retry=once)
        try:
            yield client
        finally:
            client.close()

    def master(self, name: str) -> int:
        """Return the port of the master of that name."""
        with self.client() as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", name)[1])


@contextmanager
def sentinel_server(
    masters: Mapping[str, Watched], *lines: str, kind: RedisKind | None = None
) -> Iterator[SentinelServer]:
    """Start a sentinel.

    Args:
        masters: What it watches, by the names of masters.
        lines: More lines of its configuration.
        kind: Which Redis or Valkey; the default kind if None.
    """
    with tempfile.TemporaryDirectory(prefix="sentinel-") as directory:
        server = SentinelServer(free_port(), Path(directory))
        text = [f"port {server.port}", f"bind {LOOPBACK}", f"dir {directory}", *lines]
        for name, each in masters.items():
            text += [
                f"sentinel monitor {name} {LOOPBACK} {each.port} {each.quorum}",
                f"sentinel down-after-milliseconds {name} {each.down_ms}",
                f"sentinel failover-timeout {name} {TIMEOUT_MS}",
            ]
        # It writes what it learns into this file.
        conf, log = Path(directory, "sentinel.conf"), Path(directory, "sentinel.log")
        conf.write_text("\n".join(text) + "\n")
        program = str(program_of(kind or default_kind()))
        with running([program, str(conf), "--sentinel"], log=log) as process:

            def answers() -> bool:
                must_run(process, log)
                with server.client() as client:
                    try:
                        return bool(client.ping())
                    except redis.AuthenticationError:  # it answers that it wants a password
                        return True

            eventually(answers, within=START_SECONDS, what="the sentinel answers")
            yield server
