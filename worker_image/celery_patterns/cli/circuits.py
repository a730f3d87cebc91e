"""``celery-patterns circuit``: list circuits, open one, close one."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from celery_patterns.cli.application import add_arguments, application
from celery_patterns.cli.exits import Exit
from celery_patterns.cli.tables import ago, say, say_json, table
from celery_patterns.resilience.circuit import CircuitBreaker, circuits
from celery_patterns.tasks import options as checks
from celery_patterns.tasks.patterns import patterns_of


def add_commands(commands: Any) -> None:
    """Add ``circuit`` and its commands."""
    group = commands.add_parser("circuit", help="circuits: list, open, reset").add_subparsers(required=True)
    listing = group.add_parser("list", help="the circuits that are in use")
    listing.set_defaults(run=run_list)
    opening = group.add_parser("open", help="let no call through for a while")
    opening.add_argument("name")
    opening.add_argument("--for", dest="seconds", default="5m", metavar="TIME", help="30s, 5m, 1h (default 5m)")
    opening.add_argument("--reason", default="opened by hand")
    opening.set_defaults(run=run_open)
    reset = group.add_parser("reset", help="close it and forget what it counted")
    reset.add_argument("name")
    reset.set_defaults(run=run_reset)
    for each in (listing, opening, reset):
        add_arguments(each)


def run_list(options: argparse.Namespace) -> int:
    """List circuits."""
    with application(options) as app:
        found = circuits(patterns_of(app).store)
    if options.json:
        say_json([dataclasses.asdict(state) for state in found])
    elif not found:
        say("No circuit is in use.")
    else:
        rows = [
            (state.name, state.state + (" (forced)" if state.forced else ""),
             "-" if state.since is None else ago(state.since), ago(state.open_for) if state.open_for else "-",
             state.calls, state.failures, state.slow, state.reason or "-")
            for state in found
        ]  # fmt: skip
        say(table(("CIRCUIT", "STATE", "SINCE", "OPEN FOR", "CALLS", "FAILED", "SLOW", "REASON"), rows))
    return Exit.WELL


def run_open(options: argparse.Namespace) -> int:
    """Open one."""
    seconds = checks.duration("--for", options.seconds, low=0.1)
    with application(options) as app:
        breaker = CircuitBreaker(patterns_of(app).store, options.name)
        breaker.force_open(seconds, options.reason)
        return _tell(breaker, options)


def run_reset(options: argparse.Namespace) -> int:
    """Close one."""
    with application(options) as app:
        breaker = CircuitBreaker(patterns_of(app).store, options.name)
        breaker.reset()
        return _tell(breaker, options)


def _tell(breaker: CircuitBreaker, options: argparse.Namespace) -> int:
    state = breaker.state()
    if options.json:
        say_json(dataclasses.asdict(state))
    else:
        say(f"{state.name} is {state.state}" + (f" for {ago(state.open_for)}" if state.open_for else "") + ".")
    return Exit.WELL
