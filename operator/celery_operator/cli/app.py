"""The command line: arguments in, exit status out. What a command does stands in a module of its own."""

from __future__ import annotations

import asyncio
import json
import platform
from datetime import timedelta
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from celery_operator import __version__
from celery_operator.cli.examples import UnknownExampleError, examples, find_example, summary
from celery_operator.cli.exit_codes import ExitCode
from celery_operator.cli.run_command import RunSettings, run_documents
from celery_operator.local.checks import check
from celery_operator.local.hosts import parse_mapping
from celery_operator.local.manifests import Document, Problem, load
from celery_operator.local.run import Options

EPILOG = (
    "Exit status: 0 all is well; 1 a workflow failed; 2 a file, resource or option is wrong; 3 it could not be run to "
    "its end; 130 interrupted."
)

app = typer.Typer(
    name="celery-operator",
    help="Celery workflows and worker pools as resources: run them on this machine, or check them for a cluster.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="YAML or JSON files, or folders with them; - is the standard input."),
]


@app.command(epilog=EPILOG)
def run(
    files: Files,
    *,
    timeout: Annotated[float | None, typer.Option(min=0, help="End after this many seconds, finished or not.")] = None,
    give_up_after: Annotated[
        float, typer.Option(min=0, help="End when a workflow has made no progress for this many seconds; 0: never.")
    ] = 60,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Wait, too, until the pools have shrunk to their smallest size.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the pools running until Ctrl-C.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a picture, also on a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    map_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HOST:PORT", help="Where a Service of that name is on this machine. Repeatable."),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep the logs of operator and workers in this folder.")
    ] = None,
    app_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder to run workers in, if not this one: they import from it."
        ),
    ] = None,
) -> None:
    """Run resources on this machine, without a cluster: workers are processes, and all is gone at the end.

    Redis URLs that name a Service of a cluster (redis://celery-redis:6379/0) lead to a private Redis that is started
    for the run. URLs with localhost, an address or a domain are used as they are.
    """
    out, err = Console(), Console(stderr=True)
    documents, wrong = load(files)
    found = check(documents)
    _refuse([*wrong, *found.wrong, *found.missing], err, as_json=as_json, out=out, notes=found.doubtful)
    _note(found.doubtful, err)
    options = Options(
        map_hosts=dict(_mappings(map_host or ())),
        directory=logs,
        working_directory=app_dir,
        give_up_after=timedelta(seconds=give_up_after) if give_up_after else None,
    )
    settings = RunSettings(
        options=options, timeout_seconds=timeout, as_json=as_json, plain=plain, keep=keep, until_idle=until_idle
    )
    raise typer.Exit(asyncio.run(run_documents(documents, settings, out, err)))


@app.command(epilog=EPILOG)
def validate(
    files: Files,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Check resources without a cluster: all that the API server and the operator would refuse."""
    out, err = Console(), Console(stderr=True)
    documents, wrong = load(files)
    found = check(documents)
    notes = [*found.missing, *found.doubtful]
    _refuse([*wrong, *found.wrong], err, as_json=as_json, out=out, notes=notes)
    if as_json:
        _print_json(out, valid=True, problems=[], notes=notes, resources=len(documents))
        return
    _note(notes, err)
    out.print(f"{_count(documents)} valid", highlight=False)


@app.command()
def example(
    name: Annotated[str | None, typer.Argument(help="Its name, or number; without one they are listed.")] = None,
) -> None:
    """Print one of the bundled examples, to be run, changed, or applied to a cluster.

    celery-operator example word-count > word-count.yaml
    """
    out, err = Console(), Console(stderr=True)
    if name is None:
        for short, file in examples().items():
            out.print(f"{short:<20} {summary(file)}", highlight=False, markup=False, soft_wrap=True)
        return
    try:
        text = find_example(name).read_text(encoding="utf-8")
    except UnknownExampleError as error:
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.INVALID) from None
    typer.echo(text, nl=False)


@app.command()
def version() -> None:
    """Print the versions of the operator and of what it is built on."""
    parts = [f"{name} {version_of(name)}" for name in ("celery", "kombu", "kopf", "kubernetes", "pydantic")]
    typer.echo(f"celery-operator {__version__} ({', '.join(parts)}, Python {platform.python_version()})")


def _refuse(
    problems: list[Problem], err: Console, *, as_json: bool, out: Console, notes: list[Problem] | None = None
) -> None:
    """End with INVALID if there are problems."""
    if not problems:
        return
    if as_json:
        _print_json(out, valid=False, problems=problems, notes=notes or [])
    else:
        for problem in problems:
            err.print(f"error: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.INVALID)


def _note(notes: list[Problem], err: Console) -> None:
    for note in notes:
        err.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _print_json(
    out: Console, *, valid: bool, problems: list[Problem], notes: list[Problem], resources: int | None = None
) -> None:
    body = {
        "valid": valid,
        "problems": [problem.to_json() for problem in problems],
        "notes": [note.to_json() for note in notes],
    }
    if resources is not None:
        body["resources"] = resources
    out.print(json.dumps(body, indent=2, ensure_ascii=False), highlight=False, markup=False, soft_wrap=True)


def _mappings(texts: tuple[str, ...] | list[str]) -> list[tuple[str, str]]:
    try:
        return [parse_mapping(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--map-host") from None


def _count(documents: list[Document]) -> str:
    files = len({document.source for document in documents})
    resources = f"{len(documents)} resource{'' if len(documents) == 1 else 's'}"
    return f"{resources} in {files} file{'' if files == 1 else 's'}:"


def main() -> None:
    """Run the command line; the console script."""
    app()
