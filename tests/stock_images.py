"""What a user's own image holds: virtual environments with plain Celery of some release, made once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILD_SECONDS = 300.0
"""An environment is some twenty small wheels."""


def cache() -> Path:
    """Return where environments are kept, outside of the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "celery-operator" / "environments"


OLDEST_PYTHON = "python3.10"
"""Celery 5.5 and 5.6 run on older ones still, Celery 5.7 and the agent do not."""


def oldest_python() -> str:
    """Return the interpreter that the agent's oldest Python is, where this machine has it, else the one that runs this.

    Interpreters of pyenv are found also where none of its shims chooses them.
    """
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [shutil.which(OLDEST_PYTHON), *map(str, sorted(versions.glob(f"*/bin/{OLDEST_PYTHON}")))]
    return next((python for python in found if python and _starts(python)), sys.executable)


def _starts(python: str) -> bool:
    """Whether it is more than a shim that leads nowhere."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def stock_environment(*requirements: str, python: str = sys.executable) -> Path:
    """Return the directory of an environment of ``python`` that holds these requirements and nothing else.

    Raises RuntimeError with pip's words if it cannot be made.
    """
    version = subprocess.run([python, "-VV"], capture_output=True, text=True, check=True).stdout
    text = "\n".join([version, *requirements])
    directory = cache() / hashlib.sha256(text.encode()).hexdigest()[:16]
    cache().mkdir(parents=True, exist_ok=True)
    with _alone(directory.with_suffix(".lock")):
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            _run([python, "-m", "venv", str(directory)])
            pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, *requirements])
            (directory / "complete").write_text(text)
    return directory


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time make an environment."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
