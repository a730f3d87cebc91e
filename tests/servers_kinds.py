"""The kinds of Redis and of RabbitMQ that the tests run on, and where their programs are on this machine.

A program of the right version among the machine's own is used; else one that ``servers_install`` has unpacked from
Debian's archive into the user's cache. The environment variable TEST_REDIS names a single kind of Redis for all tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ENV_KIND = "TEST_REDIS"
VERSION_SECONDS = 20.0
"""How long a program may take to say its version: no time at all, unless the machine is very busy."""

_VERSION = re.compile(r"^(Redis|Valkey) server v=((\d+)\.\S+)")


@dataclass(frozen=True, slots=True)
class RedisKind:
    """One server that understands Redis's protocol.

    Attributes:
        name: What it is called in tests' ids and in TEST_REDIS.
        product: What its program calls itself.
        major: First part of its version.
        program: The name of its program.
        suite: The release of Debian that has this version.
    """

    name: str
    product: str
    major: int
    program: str
    suite: str


@dataclass(frozen=True, slots=True)
class RabbitKind:
    """A version of RabbitMQ.

    Attributes:
        name: What it is called in tests' ids.
        major: First part of its version.
        suite: The release of Debian that has this version.
    """

    name: str
    major: int
    suite: str


KINDS = (
    RedisKind("redis-7", "Redis", 7, "redis-server", "bookworm"),
    RedisKind("redis-8", "Redis", 8, "redis-server", "trixie"),
    RedisKind("valkey-8", "Valkey", 8, "valkey-server", "trixie"),
)

RABBIT_KINDS = (RabbitKind("rabbitmq-3", 3, "bookworm"), RabbitKind("rabbitmq-4", 4, "trixie"))


def servers_cache() -> Path:
    """Return the folder of the servers that do not come from this machine's own packages."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-operator" / "servers"


def unpacked(name: str, program: str) -> Path:
    """Return where a program from Debian's archive is, or will be."""
    return servers_cache() / name / "usr/bin" / program


@cache
def version(program: Path) -> tuple[str, str] | None:
    """Return the product and the version that a server's program names; None if it does not start or says neither."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _VERSION.match(done.stdout)
    return (said[1], said[2]) if said else None


def find_program(kind: RedisKind) -> Path | None:
    """Return the program of a kind; None if this machine has none."""
    candidates = [unpacked(kind.name, kind.program)]
    own = shutil.which(kind.program)
    if own is not None:
        candidates.insert(0, Path(own))
    for program in candidates:
        said = version(program)
        if said is not None and said[0] == kind.product and said[1].startswith(f"{kind.major}."):
            return program
    return None


def program_of(kind: RedisKind) -> Path:
    """Return the program of a kind.

    Raises:
        RuntimeError: This machine has none.
    """
    found = find_program(kind)
    if found is None:
        raise RuntimeError(f"no {kind.product} {kind.major} on this machine: call `make system`, which fetches it")
    return found


def kind_named(name: str) -> RedisKind:
    """Return the kind of that name.

    Raises:
        ValueError: There is none; the message names those there are.
    """
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise ValueError(f"{ENV_KIND}: expected one of {', '.join(each.name for each in KINDS)}, got {name!r}")


def wanted_kinds() -> tuple[RedisKind, ...]:
    """Return the kinds that the tests are to run on: all, or the one that TEST_REDIS names.

    Raises:
        ValueError: TEST_REDIS names none.
    """
    chosen = os.environ.get(ENV_KIND, "")
    return (kind_named(chosen),) if chosen else KINDS


@cache
def every_kind() -> tuple[RedisKind, ...]:
    """Return the kinds that the tests run on.

    These are the wanted ones. On a developer's machine that cannot have all of them (no Debian) those that it lacks are
    left out; where CI is set they are not, and tests that need them fail.
    """
    wanted = wanted_kinds()
    if os.environ.get("CI") or len(wanted) == 1:
        return wanted
    return tuple(kind for kind in wanted if find_program(kind)) or wanted


def find_rabbit(kind: RabbitKind) -> Path | None:
    """Return the folder below which a RabbitMQ is as its package lays it out (``/`` for the machine's own)."""
    for root in (Path("/"), servers_cache() / kind.name):
        if any((root / "usr/lib/rabbitmq/lib").glob(f"rabbitmq_server-{kind.major}.*")):
            return root
    return None


@cache
def every_rabbit() -> tuple[RabbitKind, ...]:
    """Return the kinds of RabbitMQ that the tests run on; as ``every_kind``."""
    if os.environ.get("CI"):
        return RABBIT_KINDS
    return tuple(kind for kind in RABBIT_KINDS if find_rabbit(kind)) or RABBIT_KINDS[:1]


def default_kind() -> RedisKind:
    """Return the kind for tests that need just one."""
    return every_kind()[0]
