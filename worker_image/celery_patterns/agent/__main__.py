"""``python -m celery_patterns.agent drain --timeout-seconds N``: the preStop hook, run inside the worker's container.

It imports neither Celery nor anything else that is slow: kubelet counts its time against the grace period.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery_patterns import protocol

POLL_SECONDS = 0.2
REQUEST_SECONDS = 5.0
TRIES_BEFORE_GONE = 10
"""Requests that may fail in a row before the worker counts as gone."""
START_SECONDS = 300.0
"""For so long after its container's start a worker that has never answered is waited for. It would not heed SIGTERM
yet: the kernel gives process 1 no signal that it has no handler for, and it would begin to work when it is meant to
end. Its startup probe allows as much."""
MAIN_PROCESS = "1"
"""Of a container."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m celery_patterns.agent", description="Talk to this container's worker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drain = commands.add_parser("drain", help="stop consuming and wait until nothing is held; always exits with 0")
    drain.add_argument("--timeout-seconds", type=float, required=True, help="how long to wait")
    commands.add_parser("state", help="print what the worker holds and runs, as JSON")
    inject = commands.add_parser("inject", help="copy the agent into a directory, for workers of another image")
    inject.add_argument("directory", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "inject":
        return _inject(chosen.directory)
    if chosen.command == "drain":
        print(_drain(chosen.timeout_seconds), flush=True)  # noqa: T201 - a command's output
        return 0
    try:
        print(json.dumps(_request("GET", protocol.PATH_STATE), indent=2), flush=True)  # noqa: T201
    except (OSError, RuntimeError, ValueError) as error:
        print(f"no answer from the worker's agent at {_address()}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _inject(directory: Path) -> int:
    from celery_patterns.agent.injection import inject  # noqa: PLC0415 - the preStop command must start at once

    try:
        inject(directory)
    except OSError as error:
        print(f"the agent cannot be copied into {directory}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"the agent is in {directory}", flush=True)  # noqa: T201
    return 0


def _drain(timeout: float) -> str:
    """Drain the worker and return the line that says how it went."""
    began = time.monotonic()
    failures = 0
    asked = False
    state: dict[str, Any] = {}
    while True:
        try:
            state = _request("GET", protocol.PATH_STATE) if asked else _request("POST", protocol.PATH_DRAIN)
            asked, failures = True, 0
        except PermissionError as error:
            return f"not drained: {error}"
        except (OSError, RuntimeError, ValueError) as error:
            failures += 1
            if failures >= TRIES_BEFORE_GONE and (asked or not _is_starting()):
                return f"not drained: no answer from the worker's agent at {_address()}: {error}"
        waited = time.monotonic() - began
        if state.get("drained"):
            return f"drained after {waited:.1f} s"
        if waited >= timeout:
            held = ", ".join(f"{state.get(name, '?')} {name}" for name in ("active", "reserved", "scheduled"))
            return f"not drained within {timeout:g} s: {held}"
        time.sleep(min(POLL_SECONDS, max(0.0, timeout - waited)))


def _is_starting(proc: Path = Path("/proc")) -> bool:
    """Whether the container's main process is so young that its agent may still come up. False if that is unknown."""
    try:
        fields = (proc / MAIN_PROCESS / "stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd field of all; the name before may hold spaces
        return float((proc / "uptime").read_text().split()[0]) - began < START_SECONDS
    except (OSError, ValueError, IndexError):
        return False


def _request(method: str, path: str) -> dict[str, Any]:
    """Ask the agent.

    Raises:
        PermissionError: If it refuses the token.
        OSError, RuntimeError, ValueError: If it does not answer as it should.
    """
    connection = http.client.HTTPConnection(_address(), timeout=REQUEST_SECONDS)
    try:
        connection.request(method, path, headers=_authorization())
        response = connection.getresponse()
        body = json.loads(response.read())
    except http.client.HTTPException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status in (401, 403):
        raise PermissionError(f"the agent refuses: {body.get('error')}")
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {body.get('error')}")
    return dict(body)


def _address() -> str:
    file = os.environ.get(protocol.ENV_AGENT_ADDRESS_FILE)
    if file and Path(file).exists():
        return Path(file).read_text().strip()
    host = os.environ.get(protocol.ENV_AGENT_HOST) or "127.0.0.1"
    port = os.environ.get(protocol.ENV_AGENT_PORT) or str(protocol.AGENT_PORT)
    return f"{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - compared, not bound


def _authorization() -> dict[str, str]:
    file = os.environ.get(protocol.ENV_AGENT_TOKEN_FILE)
    try:
        return {"Authorization": f"Bearer {Path(file).read_text().strip()}"} if file else {}
    except OSError:
        return {}


if __name__ == "__main__":
    sys.exit(main())
