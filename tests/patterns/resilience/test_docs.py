"""Every code block of the pages about resilience runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from celery_patterns.cli.command import main
from celery_patterns.store import settings
from servers import RedisServer

DOCS = Path(__file__).parents[3] / "docs" / "patterns"
PAGES = ["errors.md", "circuit-breaker.md", "bulkhead.md", "dead-letters.md", "poison.md"]
COMMAND_PAGES = ["dead-letters.md", "doctor.md"]


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Return (line, text) of each block of a page."""
    text = (DOCS / page).read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start()].count("\n") + 2, match[1]) for match in found]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_of_a_page_run_one_after_the_other(page: str, redis: RedisServer, tmp_path: Path) -> None:
    with redis.client() as client:
        client.flushall()
    found = blocks(page, "python")
    assert found, "the page has no code"
    source = ""
    for line, text in found:
        # Blank lines before it give its errors the line numbers of the page.
        source += "\n" * (line - 1 - source.count("\n")) + text
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


@pytest.mark.parametrize("page", COMMAND_PAGES)
def test_commands_of_a_page_run(
    page: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _environment(redis).items():
        monkeypatch.setenv(name, value)
    commands = [line for _, text in blocks(page, "bash") for line in text.splitlines()]
    assert commands, "the page has no commands"
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "celery-patterns"
        # 1: there is something to do, such as a task that is not known here.
        assert main(arguments) in (0, 1), command
        assert capsys.readouterr().out


def _environment(redis: RedisServer) -> dict[str, str]:
    return {
        **os.environ,
        settings.ENV_URL: redis.url(3),
        "CELERY_BROKER_URL": redis.url(0),
        "CELERY_RESULT_BACKEND": redis.url(1),
    }
