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

from pages import PATTERNS, WITH_A_WORKER, blocks
from patterns.tasks.conftest import LEDGER
from servers import RedisServer, Worker, celery_worker

FILE = re.compile(r"# (\S+\.py)\n")
TASK = re.compile(r"\bname=\"([\w.]+)\"")


def files(page: str) -> dict[str, str]:
    """Return the text of each file that a page's Python makes, by its name."""
    found: dict[str, str] = {}
    for block in blocks(PATTERNS / page):
        if block.language == "python":
            named = FILE.match(block.text)
            assert named, f"{block}: a block of Python begins with the name of its file"
            assert named[1] not in found, f"{block}: the page has two files of this name"
            found[named[1]] = block.text
    return found


@pytest.fixture(scope="module")
def programs(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Worker, dict[str, str]]]:
    """A folder with the files of all pages, a worker that runs their applications, and its environment."""
    folder = tmp_path_factory.mktemp("docs")
    modules, tasks = [], set[str]()
    for page in WITH_A_WORKER:
        for name, text in files(page).items():
            assert not (folder / name).exists(), f"{page}: another page has a file {name}"
            assert not (named := set(TASK.findall(text)) & tasks), f"{page}: other pages have tasks {named}"
            tasks |= set(TASK.findall(text))
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


@pytest.mark.parametrize("page", WITH_A_WORKER)
def test_no_block_of_a_page_is_left_out(page: str) -> None:
    for block in blocks(PATTERNS / page):
        assert block.language in ("python", "json"), f"{block}: a block of {block.language!r} is run by nothing"
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", WITH_A_WORKER)
def test_the_code_of_a_page_runs(page: str, programs: tuple[Path, Worker, dict[str, str]]) -> None:
    folder, worker, environment = programs
    callers = [name for name in files(page) if name.startswith("call_")]
    assert callers, "the page calls nothing"
    for caller in callers:
        command = [sys.executable, caller]
        done = subprocess.run(
            command, check=False, env=environment, cwd=folder, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, f"{page}, {caller}:\n{done.stdout}{done.stderr}\n{worker.log()}"
