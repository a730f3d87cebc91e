"""Callers in processes of their own: what is compared may need another interpreter, or leave nothing behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]


def answer_of(command: Sequence[str], environment: Mapping[str, str], *, within: float) -> dict[str, Any]:
    """Run a program of the benchmark's for at most so many seconds; return the JSON object that it prints.

    Raises:
        AssertionError: If it fails; with its own last words.
        subprocess.TimeoutExpired: If it does not end in time.
    """
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=within, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
