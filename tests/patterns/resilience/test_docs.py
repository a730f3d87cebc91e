"""Every code block of the pages about resilience runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery

from celery_patterns.cli.command import main
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.resilience.places import letters_of
from celery_patterns.store import settings
from pages import AS_PROGRAMS, PATTERNS, blocks
from servers import RedisServer

BLOCKS = {page: blocks(PATTERNS / page) for page in AS_PROGRAMS}
LETTER = re.compile(r"\b\d{13}-0\b")
"""The id of a dead letter, as pages write it."""


def pages_with(language: str) -> list[str]:
    """Return the pages that have blocks of a language."""
    return [page for page, found in BLOCKS.items() if any(block.language == language for block in found)]


@pytest.mark.parametrize("page", AS_PROGRAMS)
def test_no_block_of_a_page_is_left_out(page: str) -> None:
    assert BLOCKS[page], "the page has no code: it belongs to those without"
    for block in BLOCKS[page]:
        assert block.language in ("python", "bash"), f"{block}: a block of {block.language!r} is run by nothing"


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_of_a_page_run_one_after_the_other(page: str, redis: RedisServer, tmp_path: Path) -> None:
    with redis.client() as client:
        client.flushall()
    source = ""
    for block in BLOCKS[page]:
        if block.language == "python":
            # Blank lines before it give its errors the line numbers of the page.
            source += "\n" * (block.line - 1 - source.count("\n")) + block.text
    program = tmp_path / f"{page.removesuffix('.md').replace('-', '_')}.py"
    program.write_text(source)
    done = subprocess.run(
        [sys.executable, str(program)],
        check=False,
        env=_environment(redis),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, f"{page}:\n{done.stderr}"


@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_of_a_page_run(
    page: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _environment(redis).items():
        monkeypatch.setenv(name, value)
    letter = _keep_letter()
    for command in (line for block in BLOCKS[page] if block.language == "bash" for line in block.text.splitlines()):
        program, *arguments = shlex.split(LETTER.sub(letter, command))
        assert program == "celery-patterns"
        # 1: there is something to do, such as a task that is not known here.
        assert main(arguments) in ((0,) if letter in arguments else (0, 1)), command
        assert capsys.readouterr().out


def _keep_letter() -> str:
    """Keep a dead letter that the commands of a page can replay; returns its id."""
    message = OriginalMessage(
        b'[["A-16"], {"amount": 7, "old": 1}, {}]', {"task": "charge", "id": "1"}, {}, "application/json", "utf-8"
    )
    with Celery("letters", set_as_current=False) as app, closing(letters_of(app)) as letters:
        letters.keep(Letter("", "celery", "failed", message, error="ValueError: 7"), token=uuid4().hex)
        return next(iter(letters.scan("celery"))).id


def _environment(redis: RedisServer) -> dict[str, str]:
    return {
        **os.environ,
        settings.ENV_URL: redis.url(3),
        "CELERY_BROKER_URL": redis.url(0),
        "CELERY_RESULT_BACKEND": redis.url(1),
    }
