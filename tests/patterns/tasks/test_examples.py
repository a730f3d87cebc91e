"""The example runs as its README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from servers import RedisServer, celery_worker

EXAMPLE = Path(__file__).parents[3] / "examples" / "patterns"


def test_the_example_shows_what_it_says(redis: RedisServer) -> None:
    broker, backend = redis.url(10), redis.url(11)
    with celery_worker(broker=broker, backend=backend, app="shop", python_path=EXAMPLE, agent=False, concurrency=4):
        done = subprocess.run(
            [sys.executable, "try_it.py"],
            check=False,
            env={**os.environ, "CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": backend},
            cwd=EXAMPLE,
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == ("five calls, one charge: {\"{'order': 'A-17', 'cents': 1200, 'attempt': 2, 'fenced': True}\"}")
    assert lines[1] == "one report for two: True shelf B2 is counted"
    assert lines[2] == "the second try began at row 50"
    assert "done=100.0, total=100.0" in lines[3]
    assert "dead letter: ('failed', 'ValueError: -1 cents cannot be paid back', 1)" in lines
    assert "it succeeded" in done.stdout
