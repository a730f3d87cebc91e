"""The command line, called by a program that goes on."""

from __future__ import annotations

import logging

import pytest

from celery_patterns.cli.command import main
from celery_patterns.cli.exits import Exit


def test_it_leaves_the_programs_logs_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("celery_patterns")
    before = logger.level
    assert main(["circuit", "list", "-A", "nowhere_to_be_found:app"]) == Exit.WRONG
    assert "nowhere_to_be_found" in capsys.readouterr().err
    assert logger.level == before
