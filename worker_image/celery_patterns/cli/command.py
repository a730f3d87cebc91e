"""The command line: arguments in, exit status out. What a command does stands in a module of its own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from celery_patterns import protocol
from celery_patterns.cli.exits import CommandError, Exit

EPILOG = (
    "Exit status: 0 all is well; 1 there is something to do; 2 the command, the application or a setting is wrong; "
    "3 broker, store or result backend does not answer."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from celery_patterns.cli import bench, circuits, dead_letters, doctor, task_state  # noqa: PLC0415 - see main

    parser = argparse.ArgumentParser(
        prog="celery-patterns", description="Look after Celery workers and what went wrong in them.", epilog=EPILOG
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (doctor, dead_letters, circuits, task_state, bench):
        module.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    with _errors_alone(logging.getLogger("celery_patterns")):
        return _run(options)


@contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    """Let a logger say nothing but errors; it may be that of a program that called ``main``, which goes on."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(options: argparse.Namespace) -> int:
    from kombu.exceptions import OperationalError  # noqa: PLC0415 - --help need not wait for it

    from celery_patterns.store import StoreError, StoreUnavailable  # noqa: PLC0415

    try:
        return int(options.run(options))
    except CommandError as error:
        return _complain(str(error), error.status)
    except StoreUnavailable as error:
        return _complain(str(error), Exit.UNREACHABLE)
    except (OperationalError, ConnectionError, TimeoutError) as error:
        return _complain(f"no answer: {protocol.mask_url(str(error))}", Exit.UNREACHABLE)
    except (StoreError, ValueError) as error:
        return _complain(protocol.mask_url(str(error)), Exit.WRONG)
    except KeyboardInterrupt:
        return 130


def _complain(text: str, status: Exit) -> int:
    sys.stderr.write(f"celery-patterns: {text}\n")
    return int(status)
