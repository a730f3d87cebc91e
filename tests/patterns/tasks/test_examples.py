"""The example runs as its README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers import RedisServer, celery_worker

EXAMPLE = Path(__file__).parents[3] / "examples" / "patterns"


def test_the_example_shows_what_it_says(redis: RedisServer, tmp_path: Path) -> None:
    urls: dict[str, Any] = {"broker": redis.url(10), "backend": redis.url(11)}
    folder = {"TMPDIR": str(tmp_path)}
    with celery_worker(**urls, app="shop", python_path=EXAMPLE, agent=False, concurrency=4, env=folder) as worker:
        done = subprocess.run(
            [sys.executable, "try_it.py"],
            check=False,
            env={
                **os.environ,
                **folder,
                "CELERY_BROKER_URL": urls["broker"],
                "CELERY_RESULT_BACKEND": urls["backend"],
            },
            cwd=EXAMPLE,
            capture_output=True,
            text=True,
            timeout=90,
        )
        log = worker.log()
    assert done.returncode == 0, f"{done.stderr}\n{log}"
    lines = done.stdout.splitlines()
    assert lines[0] == ("five calls, one charge: {\"{'order': 'A-17', 'cents': 1200, 'attempt': 2, 'fenced': True}\"}")
    assert lines[1] == "one report for two: True shelf B2 is counted"
    assert lines[2] == "the second try began at row 50"
    assert "done=100.0, total=100.0" in lines[3]
    assert "dead letter: ('failed', 'ValueError: -1 cents cannot be paid back', 1)" in lines
    assert "it succeeded" in done.stdout
    asked, not_asked = "4900 (ConnectionError)", "4900 (CircuitOpen)"
    assert f"prices: {[asked, asked, asked, not_asked, not_asked]}" in lines
    assert any(f"readers at a time: {number}" in lines for number in (1, 2)), "a busy machine may start them in turns"
    assert lines[-3:] == [
        "six mails, all in vain, tries: 8",
        "after a crash: 500000 bytes",
        "in the result backend only a claim: True",
    ]
    payloads = [path for path in (tmp_path / "shop").rglob("*") if path.is_file()]
    assert len(payloads) == 2, "the picture and the thumbnail lie in the folder"
