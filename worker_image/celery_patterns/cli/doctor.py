"""``celery-patterns doctor``: look at a live broker and application, and say what to change."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from celery_patterns import protocol
from celery_patterns.cli import check_application, check_rabbitmq, check_redis, check_sentinel, check_workers
from celery_patterns.cli.application import add_arguments, application
from celery_patterns.cli.exits import Exit
from celery_patterns.cli.findings import ORDER, Finding, Level, unknown
from celery_patterns.cli.tables import say, say_json

MARKS = {Level.ERROR: "ERROR", Level.WARNING: "WARN", Level.UNKNOWN: "?", Level.OK: "ok"}

CAUSES = ("memory", "sentinel")
"""Checks whose errors are told before others of their level."""


def add_commands(commands: Any) -> None:
    """Add ``doctor``."""
    parser = commands.add_parser("doctor", help="look at broker, result backend and application; say what to change")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--quiet", action="store_true", help="only what is not well")
    parser.set_defaults(run=run)
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Look at everything; exit status 1 if there is an error, 3 if the broker does not answer."""
    with application(options) as app:
        findings = examined(app)
    levels = {finding.level for finding in findings}
    if options.quiet:
        findings = [finding for finding in findings if finding.level is not Level.OK]
    if options.json:
        say_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{MARKS[finding.level]:<6} {finding.check:<13} {finding.message}")
            if finding.advice:
                say(f"{'':<20} -> {finding.advice}")
    if any(finding.check == "broker" and finding.level is Level.ERROR for finding in findings):
        return Exit.UNREACHABLE
    bad = {Level.ERROR, Level.WARNING} if options.strict else {Level.ERROR}
    return Exit.FOUND if levels & bad else Exit.WELL


def examined(app: Any) -> list[Finding]:
    """Return what is found, worst first, and each thing once; of the errors that first which brings about others."""
    return sorted(dict.fromkeys(examine(app)), key=lambda each: (ORDER.index(each.level), each.check not in CAUSES))


def examine(app: Any) -> Iterator[Finding]:
    """Look at an application and all it talks to."""
    checks: list[Callable[[Any], Iterator[Finding]]] = [
        check_application.versions,
        check_application.settings,
        check_application.serializers,
        check_application.results,
        check_sentinel.sentinel,
        check_redis.broker,
        check_redis.store,
        check_redis.results,
        check_rabbitmq.broker,
    ]
    reached = True
    for check in checks:
        for finding in _made(check, app):
            reached = reached and (finding.check, finding.level) != ("broker", Level.ERROR)
            yield finding
    if reached:
        yield from _made(check_workers.workers, app)
    else:
        yield unknown("workers", "they cannot be asked without the broker")


def _made(check: Callable[[Any], Iterator[Finding]], app: Any) -> Iterator[Finding]:
    try:
        yield from check(app)
    except Exception as error:  # noqa: BLE001 - one check that cannot be made must not hide the others
        yield unknown(check.__name__, f"{type(error).__name__}: {protocol.mask_url(str(error))}")
