"""The Celery application a command works with: named by ``-A``, or made from the URLs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery_patterns.cli.exits import CommandError
from celery_patterns.tasks.patterns import patterns_of

ENV_APP = "CELERY_APP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an application."""
    group = parser.add_argument_group("the application")
    group.add_argument("-A", "--app", metavar="MODULE:APP", help=f"as for celery; also the variable {ENV_APP}")
    group.add_argument("-b", "--broker", metavar="URL", help="instead of the application's broker")
    group.add_argument("--result-backend", metavar="URL", help="instead of the application's result backend")
    group.add_argument("--store", metavar="URL", help="instead of the application's store for patterns")
    parser.add_argument("--json", action="store_true", help="write JSON")


@contextmanager
def application(options: argparse.Namespace) -> Iterator[Any]:
    """Give the application; its connections are closed at the end.

    Raises:
        CommandError: If it cannot be found, or nothing names one.
    """
    for option, variable in (
        ("broker", "CELERY_BROKER_URL"),
        ("result_backend", "CELERY_RESULT_BACKEND"),
        ("store", "CELERY_PATTERNS_STORE_URL"),
    ):
        value = getattr(options, option)
        if value:
            os.environ[variable] = value
    name = options.app or os.environ.get(ENV_APP)
    if not name and not os.environ.get("CELERY_BROKER_URL"):
        raise CommandError(f"name an application (-A module:app or the variable {ENV_APP}) or a broker (-b URL)")
    app = _find(name) if name else _make()
    try:
        yield app
    finally:
        with suppress(ValueError):  # its settings are wrong, which the command has said
            patterns_of(app).store.close()
        app.close()


def _find(name: str) -> Any:
    from celery.app.utils import find_app  # noqa: PLC0415 - --help need not wait for Celery

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        app = find_app(name)
        app.loader.import_default_modules()
    except Exception as error:
        raise CommandError(f"the application {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return app


def _make() -> Any:
    from celery import Celery  # noqa: PLC0415

    return Celery(
        "celery-patterns",
        broker=os.environ["CELERY_BROKER_URL"],
        backend=os.environ.get("CELERY_RESULT_BACKEND"),
        set_as_current=False,
    )
