"""Makes sure that each kind of server which the tests run on is on this machine: ``python -m servers_install``."""

from __future__ import annotations

import os
import sys

from harness.errors import HarnessError
from harness.progress import Progress
from servers_debian import Wanted, fetch, mirror
from servers_kinds import (
    ENV_KIND,
    RABBIT_KINDS,
    RabbitKind,
    RedisKind,
    find_program,
    find_rabbit,
    servers_cache,
    version,
    wanted_kinds,
)

ERLANG = "usr/lib/erlang"


def missing() -> list[Wanted]:
    """Return what this machine has not, and Debian's archive has."""
    return [_redis(kind) for kind in wanted_kinds() if find_program(kind) is None] + [
        _rabbit(kind) for kind in RABBIT_KINDS if find_rabbit(kind) is None
    ]


def _redis(kind: RedisKind) -> Wanted:
    return Wanted(
        suite=kind.suite,
        package=kind.program,
        programs=(f"usr/bin/{kind.program}",),
        target=servers_cache() / kind.name,
        log=servers_cache() / "logs" / f"{kind.name}.log",
    )


def _rabbit(kind: RabbitKind) -> Wanted:
    return Wanted(
        suite=kind.suite,
        package="rabbitmq-server",
        programs=(f"{ERLANG}/erts-*/bin/*", f"{ERLANG}/lib/*/priv/bin/*"),
        target=servers_cache() / kind.name,
        log=servers_cache() / "logs" / f"{kind.name}.log",
        scripts=(f"{ERLANG}/bin/erl",),
        scripts_folder=f"/{ERLANG}",
    )


def install(progress: Progress) -> None:
    """Fetch what is missing.

    Raises:
        HarnessError: Something is missing and cannot be had; on a machine that is no Debian only where CI is set.
    """
    needed = missing()
    if not needed:
        return
    archive = mirror()
    if archive is None:
        names = ", ".join(each.target.name for each in needed)
        why = f"This machine has no {names}, and no Debian archive among its sources of packages to fetch it from."
        if os.environ.get("CI"):
            raise HarnessError(why)
        progress.say(f"{why} The tests run on the other kinds.")
        return
    for each in needed:
        fetch(archive, each, progress)
    version.cache_clear()
    broken = [each for each in missing() if each in needed]
    if broken:
        folders = " ".join(str(each.target) for each in broken)
        raise HarnessError(f"What was fetched does not run; remove it and try again: {folders}")


def main() -> int:
    """Install; return the exit status."""
    try:
        install(Progress())
    except (HarnessError, ValueError) as error:
        print(f"{error}\n`make test REDIS=redis-7` runs the tests on one kind alone ({ENV_KIND}).", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
