"""The command line of ``celery worker``: what typed fields say, and what ``extraArgs`` may not say again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import Worker, WorkerPoolSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_patterns.protocol import AGENT_MODULE

LARGEST_PREFETCH_COUNT: Final = 65_535
"""What AMQP can carry. ``--prefetch-multiplier 0`` would mean Celery's default, so "no bound" is written this way."""

_IN_THE_APP: Final = "set it in the CeleryApp"
_OPERATORS: Final = "the operator sets it"
_OWNED: Final[dict[str, str]] = {
    "--app": _IN_THE_APP,
    "--broker": _IN_THE_APP,
    "--result-backend": _IN_THE_APP,
    "--queues": "use spec.queues",
    "--exclude-queues": "use spec.queues",
    "--concurrency": "use spec.worker.concurrency",
    "--pool": "use spec.worker.pool",
    "--prefetch-multiplier": "use spec.worker.prefetchMultiplier",
    "--disable-prefetch": "use spec.worker.disablePrefetch",
    "--max-tasks-per-child": "use spec.worker.maxTasksPerChild",
    "--autoscale": "use spec.autoscaling: a worker that changes its own slots cannot be counted",
    "--hostname": _OPERATORS,
    "--include": "name the modules in the application's own `include` setting",
    "--beat": "every worker of the pool would send the schedule again",
    "--purge": "every worker that starts would throw away what waits",
    "--discard": "every worker that starts would throw away what waits",
    "--detach": "the container would end at once",
    "--uid": "use securityContext in spec.template",
    "--gid": "use securityContext in spec.template",
}
"""Options that would contradict the resource, and what to do instead."""

_SHORT: Final[dict[str, str]] = {
    "A": "--app",
    "b": "--broker",
    "Q": "--queues",
    "X": "--exclude-queues",
    "c": "--concurrency",
    "P": "--pool",
    "n": "--hostname",
    "I": "--include",
    "B": "--beat",
    "D": "--detach",
}
_SHORT_FLAGS: Final = frozenset("BDE")
"""Short options without a value: they can be written together, as in ``-EB``."""

_SETTINGS: Final[dict[str, str]] = {
    "broker_url": "--broker",
    "result_backend": "--result-backend",
    "worker_concurrency": "--concurrency",
    "worker_pool": "--pool",
    "worker_prefetch_multiplier": "--prefetch-multiplier",
    "worker_disable_prefetch": "--disable-prefetch",
    "worker_max_tasks_per_child": "--max-tasks-per-child",
}
"""Settings that can be given on the command line too (``worker.concurrency=3``), and the option they equal."""


def slots_per_worker(worker: Worker) -> int:
    """Return how many tasks one worker runs at a time. A solo worker runs one, whatever the concurrency."""
    return 1 if worker.pool == "solo" else worker.concurrency


def worker_arguments(spec: WorkerPoolSpec, app: ResolvedApp, pool: str) -> list[str]:
    """Return the arguments of ``celery``. Raises SpecError(CONFLICTING_ARGUMENTS) for ``extraArgs`` that are owned.

    Gossip and mingle are off: they make each start slower and cost messages for each pair of workers.
    """
    worker = spec.worker
    refuse_owned(worker.extra_args)
    arguments = ["-A", app.application, "worker"]
    arguments += ["--queues", ",".join(queue.name.replace("$(", "$$(") for queue in spec.queues)]
    arguments += ["--concurrency", str(worker.concurrency), "--pool", worker.pool]
    arguments += ["--hostname", f"{pool}@%h", "--prefetch-multiplier", str(_prefetch_multiplier(worker))]
    if worker.disable_prefetch and app.broker_is_redis:
        arguments.append("--disable-prefetch")
    if worker.max_tasks_per_child is not None:
        arguments += ["--max-tasks-per-child", str(worker.max_tasks_per_child)]
    if worker.agent != "None":
        arguments += ["--include", AGENT_MODULE]
    return [*arguments, "--without-gossip", "--without-mingle", "--loglevel", "INFO", *worker.extra_args]


def _prefetch_multiplier(worker: Worker) -> int:
    return worker.prefetch_multiplier or LARGEST_PREFETCH_COUNT // worker.concurrency


def refuse_owned(extra_args: Sequence[str]) -> None:
    """Raise SpecError(CONFLICTING_ARGUMENTS) if an argument sets what a typed field or the operator owns."""
    for index, argument in enumerate(extra_args):
        for option in _options(argument):
            if option in _OWNED:
                written = argument.partition("=")[0]
                raise SpecError(
                    Reason.CONFLICTING_ARGUMENTS,
                    f"spec.worker.extraArgs[{index}]: {written} is not allowed here: {_OWNED[option]}",
                )


def _options(argument: str) -> Iterator[str]:
    """Yield the long names of the options that one argument sets."""
    name = argument.partition("=")[0]
    if argument.startswith("--"):
        yield name
    elif argument.startswith("-"):
        for letter in argument[1:]:
            if letter in _SHORT:
                yield _SHORT[letter]
            if letter not in _SHORT_FLAGS:
                return
    elif "=" in argument:
        setting = name.lower().replace(".", "_")
        yield from (_SETTINGS[each] for each in (setting, f"worker_{setting}") if each in _SETTINGS)
