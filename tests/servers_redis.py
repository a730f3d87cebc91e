"""A private Redis or Valkey of a chosen kind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from servers_kinds import RedisKind, default_kind, program_of
from servers_process import LOOPBACK, START_SECONDS, eventually, free_port, must_run, running


@dataclass
class RedisServer:
    """A private server; it can be stopped and started again on the same port, to see what happens without it."""

    port: int
    directory: Path
    arguments: tuple[str, ...]
    kind: RedisKind
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
        program = str(program_of(self.kind))
        command = [program, "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.directory)]
        options = ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.arguments]
        log = self.directory / "redis.log"
        process = self._stack.enter_context(running([*command, *options], log=log))

        def answers() -> bool:
            must_run(process, log)
            with self.client() as client:
                return bool(client.ping())

        eventually(answers, within=START_SECONDS, what=f"{self.kind.name} answers")

    def stop(self) -> None:
        """Stop it as a crash would: what it held is gone unless it was told to save."""
        self._stack.close()

    def log(self) -> str:
        """Return what it has written so far."""
        return (self.directory / "redis.log").read_text(errors="replace")


@contextmanager
def redis_server(*arguments: str, kind: RedisKind | None = None) -> Iterator[RedisServer]:
    """Start a server without persistence.

    Args:
        arguments: More arguments for the server (``"--maxclients", "50"``).
        kind: Which Redis or Valkey; the default kind if None.
    """
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(
            port=free_port(), directory=Path(directory), arguments=arguments, kind=kind or default_kind()
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
