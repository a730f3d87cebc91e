"""Every code block of the pages about tasks runs as it stands: applications in one worker, callers as programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patterns.tasks.conftest import LEDGER
from servers import RedisServer, Worker, celery_worker

DOCS = Path(__file__).parents[3] / "docs" / "patterns"
PAGES = sorted(DOCS.glob("tasks*.md"))
BLOCK = re.compile(r"^```(\w+)\n(?:# (\S+\.py)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return (language, file name, text) of each block of a page."""
    return [(match[1], match[2] or "", match[3]) for match in BLOCK.finditer(page.read_text())]


@pytest.fixture(scope="module")
def programs(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Worker, dict[str, str]]]:
    """A folder with the files of all pages, a worker that runs their applications, and its environment."""
    folder = tmp_path_factory.mktemp("docs")
    modules = []
    for page in PAGES:
        for language, name, text in blocks(page):
            if language == "python":
                (folder / name).write_text(text)
                modules += [] if name.startswith("call_") else [name.removesuffix(".py")]
    lines = [f"import {module}" for module in modules]
    # A task that is declared in one application is known to every other of the same process.
    lines += ["from celery_patterns.tasks import PatternApp", f'app = PatternApp("all", blob="file://{folder}/claims")']
    (folder / "everything.py").write_text("\n".join([*lines, ""]))
    environment = {"SHELF": str(folder), "LEDGER_URL": redis.url(LEDGER)}
    urls: dict[str, Any] = {"broker": redis.url(8), "backend": redis.url(9)}
    with celery_worker(
        **urls, app="everything:app", python_path=folder, agent=False, concurrency=3, env=environment
    ) as worker:
        variables = {"CELERY_BROKER_URL": urls["broker"], "CELERY_RESULT_BACKEND": urls["backend"]}
        yield folder, worker, {**os.environ, **environment, **variables}


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(page: Path, programs: tuple[Path, Worker, dict[str, str]]) -> None:
    folder, worker, environment = programs
    found = blocks(page)
    callers = [name for _, name, _ in found if name.startswith("call_")]
    assert callers, "the page calls nothing"
    for language, name, text in found:
        assert language in ("python", "json"), f"a block of {language} is run by nothing"
        assert language != "python" or name, "a block of Python begins with the name of its file"
        if language == "json":
            json.loads(text)
    for caller in callers:
        command = [sys.executable, caller]
        done = subprocess.run(
            command, check=False, env=environment, cwd=folder, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, f"{page.name}, {caller}:\n{done.stdout}{done.stderr}\n{worker.log()}"
