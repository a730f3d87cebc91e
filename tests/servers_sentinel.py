"""A primary, its replica, and a Sentinel that makes the replica the primary when that is gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.sentinel import Sentinel

from servers_kinds import RedisKind, default_kind, program_of
from servers_process import LOOPBACK, START_SECONDS, eventually, free_port, must_run, running
from servers_redis import RedisServer, redis_server

MASTER_NAME = "shop"
DOWN_MILLISECONDS, FAILOVER_MILLISECONDS = 500, 3_000
"""Much sooner than anybody would in production: the tests wait for it."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What one Sentinel watches over."""

    port: int
    """Of the Sentinel."""
    primary: RedisServer
    replica: RedisServer

    def url(self, db: int = 0) -> str:
        """Return a database's URL as Celery reads it; which service it is stands in the transport options."""
        return f"sentinel://{LOOPBACK}:{self.port}/{db}"

    def primary_port(self) -> int:
        """Return where the Sentinel says that the primary is."""
        sentinel: Any = Sentinel([(LOOPBACK, self.port)], socket_timeout=5)  # type: ignore[no-untyped-call]
        return int(sentinel.discover_master(MASTER_NAME)[1])


@contextmanager
def sentinel_server(kind: RedisKind | None = None) -> Iterator[Watched]:
    """Start all three; returns when the Sentinel knows both servers, and the replica has what the primary has."""
    kind = kind or default_kind()
    with (
        redis_server("--repl-diskless-sync-delay", "0", kind=kind) as primary,
        redis_server("--replicaof", f"{LOOPBACK} {primary.port}", kind=kind) as replica,
        tempfile.TemporaryDirectory(prefix="sentinel-") as name,
    ):
        port, config, log = free_port(), Path(name) / "sentinel.conf", Path(name) / "sentinel.log"
        config.write_text(
            f"port {port}\nbind {LOOPBACK}\ndir {name}\n"
            f"sentinel monitor {MASTER_NAME} {LOOPBACK} {primary.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_MILLISECONDS}\n"
            f"sentinel failover-timeout {MASTER_NAME} {FAILOVER_MILLISECONDS}\n"
        )
        with running([str(program_of(kind)), str(config), "--sentinel"], log=log) as process:

            def ready() -> bool:
                must_run(process, log)
                with redis.Redis(host=LOOPBACK, port=port, socket_timeout=5) as sentinel, replica.client() as behind:
                    known: Any = sentinel.sentinel_slaves(MASTER_NAME)
                    told: Any = behind.info("replication")
                    return len(known) == 1 and told["master_link_status"] == "up"

            eventually(ready, within=START_SECONDS, every=0.1, what=lambda: log.read_text(errors="replace"))
            yield Watched(port, primary, replica)
