"""Where a client's server is, for people."""

from __future__ import annotations

from typing import Any


def of(client: Any) -> str:
    """Return host and port, path of a socket, or name of a master that sentinels know; never credentials."""
    pool = client.connection_pool
    master = getattr(pool, "service_name", None)
    if master is not None:
        return of_master(master)
    parameters = pool.connection_kwargs
    return str(parameters.get("path") or f"{parameters.get('host', '?')}:{parameters.get('port', '?')}")


def of_master(name: str) -> str:
    """Say it of a master that sentinels know by a name."""
    return f"sentinels' master {name}"
