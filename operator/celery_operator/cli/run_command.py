"""``celery-operator run``: start, show, wait, tell how it ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console

from celery_operator.cli.exit_codes import ExitCode
from celery_operator.cli.progress import Progress, progress_for
from celery_operator.cli.results import print_outcomes, print_pools, print_worker_logs, to_json
from celery_operator.local.manifests import Document
from celery_operator.local.outcome import Outcome, outcome_of, unfinished
from celery_operator.local.redis_program import NoRedisError
from celery_operator.local.run import GivenUpError, LocalRun, Options, discard, local_run


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What ``run`` was told."""

    options: Options
    timeout_seconds: float | None = None
    as_json: bool = False
    plain: bool = False
    keep: bool = False
    """Go on with the pools when the workflows have ended, until Ctrl-C."""
    until_idle: bool = False
    """Wait, too, until the pools have shrunk."""


@dataclass(frozen=True, slots=True)
class _Ending:
    code: ExitCode
    outcomes: tuple[Outcome, ...]
    error: str = ""


class _Interrupted(Exception):  # noqa: N818 - no error
    """Ctrl-C, SIGTERM or SIGHUP."""


class _Signals:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the run; the second kills what is still ending."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._run: LocalRun | None = None

    def watch(self, run: LocalRun) -> None:
        self._run = run

    def __enter__(self) -> Self:
        for number in self.NUMBERS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.NUMBERS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.stop.is_set() and self._run is not None:
            self._run.cluster.node.kill()
        self.stop.set()


async def run_documents(documents: Sequence[Document], settings: RunSettings, out: Console, err: Console) -> ExitCode:
    """Run resources on this machine; returns the exit status when no process is left."""
    progress = progress_for(err if settings.as_json else out, plain=settings.plain or settings.as_json)
    run: LocalRun | None = None
    try:
        with _Signals() as signals:
            async with local_run(documents, settings.options, progress.say) as run:
                signals.watch(run)
                ending = await _follow(run, documents, settings, signals, progress)
                _tell(ending, run, settings, out, err)
                if ending.code is ExitCode.INTERRUPTED:
                    err.print("Ending the workers; Ctrl-C again kills them.", style="dim")
    except NoRedisError as error:
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return ExitCode.UNFINISHED
    if ending.code is ExitCode.SUCCESS:
        discard(run)
    else:
        err.print(f"The logs of operator and workers are in {run.directory}", style="dim", highlight=False)
    return ending.code


async def _follow(
    run: LocalRun, documents: Sequence[Document], settings: RunSettings, signals: _Signals, progress: Progress
) -> _Ending:
    """Start and show until all has ended, or cannot end."""
    run.start(documents)
    showing = asyncio.create_task(progress.show(run))
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            outcomes = await _or_interrupted(_whole(run, settings), signals)
    except TimeoutError:
        message = f"not finished within {settings.timeout_seconds:g} s"
        return _Ending(ExitCode.UNFINISHED, _ended(run), message)
    except GivenUpError as error:
        return _Ending(ExitCode.UNFINISHED, _ended(run), str(error))
    except _Interrupted:
        ended = _ended(run)
        unfinished = len(run.workflows()) - len(ended)
        if not unfinished and settings.keep:
            return _Ending(_code(ended), ended)
        return _Ending(ExitCode.INTERRUPTED, ended, f"interrupted; {unfinished} workflows had not ended")
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        progress.close()
    return _Ending(_code(outcomes), outcomes)


async def _whole(run: LocalRun, settings: RunSettings) -> tuple[Outcome, ...]:
    outcomes = await run.finished()
    if settings.until_idle:
        await run.idle()
    if settings.keep or not run.workflows():
        await asyncio.Event().wait()  # until interrupted
    return outcomes


async def _or_interrupted(work: Coroutine[Any, Any, tuple[Outcome, ...]], signals: _Signals) -> tuple[Outcome, ...]:
    """Return the result of the work. Raises _Interrupted if a signal comes first."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(signals.stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Interrupted
        return task.result()
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def _ended(run: LocalRun) -> tuple[Outcome, ...]:
    return tuple(outcome for outcome in map(outcome_of, run.workflows()) if outcome is not None)


def _all(run: LocalRun) -> tuple[Outcome, ...]:
    return tuple(outcome_of(workflow) or unfinished(workflow) for workflow in run.workflows())


def _code(outcomes: Sequence[Outcome]) -> ExitCode:
    return ExitCode.SUCCESS if all(outcome.succeeded for outcome in outcomes) else ExitCode.FAILED


def _tell(ending: _Ending, run: LocalRun, settings: RunSettings, out: Console, err: Console) -> None:
    """Print results to standard output, and what went wrong to standard error."""
    if settings.as_json:
        out.print(to_json(_all(run), error=ending.error), highlight=False, markup=False, soft_wrap=True)
    else:
        print_outcomes(out, ending.outcomes)
        print_pools(out, run)
    if ending.error:
        err.print(f"\nerror: {ending.error}", style="red", highlight=False, markup=False, soft_wrap=True)
    if ending.code is ExitCode.UNFINISHED and not settings.as_json:
        print_worker_logs(err, run)
