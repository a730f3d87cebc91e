"""Makes sure that each kind of Redis which the tests run on is on this machine: ``python -m servers_install``."""

from __future__ import annotations

import os
import sys

from harness.errors import HarnessError
from harness.progress import Progress
from servers_debian import Wanted, fetch, mirror
from servers_kinds import ENV_KIND, find_program, servers_cache, unpacked, version, wanted_kinds


def install(progress: Progress) -> None:
    """Fetch what is missing.

    Raises:
        HarnessError: Something is missing and cannot be had; on a machine that is no Debian only where CI is set.
    """
    missing = [kind for kind in wanted_kinds() if find_program(kind) is None]
    if not missing:
        return
    archive = mirror()
    names = ", ".join(kind.name for kind in missing)
    if archive is None:
        why = f"This machine has no {names}, and no Debian archive among its sources of packages to fetch it from."
        if os.environ.get("CI"):
            raise HarnessError(why)
        progress.say(f"{why} The tests run on the other kinds.")
        return
    for kind in missing:
        program = unpacked(kind.name, kind.program)
        wanted = Wanted(
            suite=kind.suite,
            package=kind.package,
            program=f"usr/bin/{kind.program}",
            target=program.parent.parent,
            log=servers_cache() / "logs" / f"{kind.name}.log",
        )
        fetch(archive, wanted, progress)
        version.cache_clear()
        if find_program(kind) is None:
            raise HarnessError(f"{program} is no {kind.product} {kind.major}; remove {program.parent.parent}.")


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
