"""The other libraries, in an environment of their own below the user's cache: never in the project's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
BATCHES = "celery-batches==0.11"
SHARED = ("celery", "kombu", "redis", "packaging")
"""In the project's own versions; the last is imported by kombu's Redis transport, which does not declare it."""
INSTALL_SECONDS = 300.0
SAID_CHARACTERS = 300

Say = Callable[[str], None]


class PeersUnavailableError(Exception):
    """The other libraries could not be installed: the message says what the installer said."""


def peers_python(say: Say) -> Path:
    """Return the interpreter that has the other libraries, installed at the first call.

    Raises:
        PeersUnavailableError: If they cannot be installed, for instance without a network.
    """
    wanted = [*_wanted(), *(f"{name}=={version(name)}" for name in SHARED)]
    mark = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    folder = _cache() / f"peers-{mark}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        say(f"installing {', '.join(_wanted())} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        _must([sys.executable, "-m", "venv", str(folder)])
        _must([*_installer(python), "install", "--quiet", *wanted])
        done.touch()
    return python


def peer_versions() -> dict[str, str]:
    """Return the versions that are compared with."""
    return dict(line.split("==", 1) for line in [*_wanted(), BATCHES])


def install_batches(python: Path) -> tuple[bool, str]:
    """Ask the installer for celery-batches beside this Celery, without installing; return whether it can, or why not.

    Raises:
        PeersUnavailableError: If the installer could not even ask.
    """
    status, said = _run([*_installer(python), "install", "--dry-run", f"celery=={version('celery')}", BATCHES])
    if status == 0:
        return True, "it installs"
    reason = re.search(r"celery-batches \S+ depends on celery\S.*", said)
    if reason is None:
        raise PeersUnavailableError(said.strip()[-SAID_CHARACTERS:])
    return False, reason[0].strip()


def _wanted() -> list[str]:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "celery-operator" / "benchmarks"


def _installer(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def _must(command: Sequence[str]) -> None:
    status, said = _run(command)
    if status:
        raise PeersUnavailableError(f"{' '.join(command[:4])} …: {said.strip()[-SAID_CHARACTERS:]}")


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeersUnavailableError(str(error)) from error
    return done.returncode, done.stdout + done.stderr
