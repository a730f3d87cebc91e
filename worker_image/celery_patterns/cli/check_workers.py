"""What doctor asks the workers: who answers on this broker, and whether they are this application's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import OutOfMemoryError

from celery_patterns import protocol
from celery_patterns.cli import check_memory, reaching
from celery_patterns.cli.findings import Finding, ok, unknown, warning

ANSWER_SECONDS = 1.5
"""Workers answer at once, unless their main process is kept busy."""

APART = (
    "for another application a database (better a server) of its own, or at least another "
    "broker_transport_options['global_keyprefix']"
)
"""What to do about company. Remote control does not cross databases or prefixes, so who answers here shares them."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A worker, as it describes itself."""

    name: str
    queues: frozenset[str] | None
    """It takes messages from these; None: it has not said."""
    tasks: frozenset[str] | None
    """It knows these; None: it has not said."""


def workers(app: Any) -> Iterator[Finding]:
    """Who answers on this broker."""
    try:
        with reaching.broker(app, connect_timeout=ANSWER_SECONDS) as connection:
            connection.connect()
            on_redis = connection.transport.driver_type == "redis"
            if on_redis:
                connection.default_channel.client.ping()
            try:
                names = sorted(name for answer in _ask(app, connection, "ping") for name in answer)
                found = consumers(app, connection, len(names)) if names else []
            except OutOfMemoryError:  # they are asked by what is written
                yield check_memory.used_up(connection.default_channel.client)
                return
    except Exception as problem:  # noqa: BLE001 - whatever a transport raises
        yield unknown("workers", f"they cannot be asked: {protocol.mask_url(str(problem))}")
        return
    if not names:
        yield unknown(
            "workers", f"none answers within {ANSWER_SECONDS:g} s", "are there any? remote control may be off"
        )
        return
    yield ok("workers", f"{len(names)} answer: {brief(names)}")
    yield from judged(found, known_queues(app), own_tasks(app), on_redis=on_redis)


def consumers(app: Any, connection: Any, number: int) -> list[Consumer]:
    """Ask so many workers what they consume and know. Two of one name answer both, and are told apart by nobody."""
    queues, tasks = (_ask(app, connection, what, limit=number) for what in ("active_queues", "registered"))
    reading: dict[str, set[str]] = {}
    for name, answer in _by_name(queues):
        reading.setdefault(name, set()).update(str(queue["name"]) for queue in answer)
    knowing: dict[str, list[frozenset[str]]] = {}
    for name, answer in _by_name(tasks):
        # Each is a task's name, with what else was asked for after a blank.
        knowing.setdefault(name, []).append(frozenset(str(each).split(" ")[0] for each in answer))
    return [
        Consumer(name, frozenset(reading[name]) if name in reading else None, known)
        for name in sorted(reading.keys() | knowing.keys())
        for known in knowing.get(name, [None])
    ]


def judged(found: Iterable[Consumer], queues: set[str], tasks: set[str], *, on_redis: bool) -> Iterator[Finding]:
    """Judge who consumes beside this application.

    Args:
        found: Who answered.
        queues: Those that the application names.
        tasks: Those that it has, without Celery's own; none if only its broker is known.
        on_redis: Whether they share a Redis database, and with it keys, the visibility timeout and its fate.
    """
    foreign = [each for each in found if tasks and each.tasks is not None and not each.tasks & tasks]
    takers = [each for each in foreign if each.queues and each.queues & queues]
    if takers:
        taken = {queue for each in takers for queue in (each.queues or ()) if queue in queues}
        yield warning(
            "consumers",
            f"{brief(_names(takers))} takes messages from {brief(sorted(taken))} and has none of this application's "
            "tasks: it refuses what it takes",
            f"queues of its own for each application; {APART}",
        )
    beside = [each for each in foreign if each not in takers]
    if on_redis and beside:
        read = {queue for each in beside for queue in each.queues or ()}
        yield warning(
            "consumers",
            f"{brief(_names(beside))} has none of this application's tasks, and reads other queues here: "
            f"{brief(sorted(read)) or 'unknown ones'}",
            APART,
        )


def _names(found: Iterable[Consumer]) -> list[str]:
    return sorted({each.name for each in found})


def known_queues(app: Any) -> set[str]:
    """Return the queues that an application names, in its routes too."""
    routes = app.conf.task_routes if isinstance(app.conf.task_routes, dict) else {}
    named = {str(queue) for queue in app.amqp.queues}
    for route in routes.values():
        if isinstance(route, dict) and route.get("queue"):
            named.add(str(getattr(route["queue"], "name", route["queue"])))
    return named


def own_tasks(app: Any) -> set[str]:
    """Return the names of an application's tasks, without Celery's own."""
    return {str(name) for name in app.tasks if not name.startswith("celery.")}


def brief(names: list[str], show: int = 4) -> str:
    """Join the first names, and say how many more there are."""
    return ", ".join(names[:show]) + (f" and {len(names) - show} more" if len(names) > show else "")


def _ask(app: Any, connection: Any, what: str, limit: int | None = None) -> list[dict[str, Any]]:
    # Not by ``inspect``, which keeps one answer of those who have one name.
    answers = app.control.broadcast(what, reply=True, timeout=ANSWER_SECONDS, limit=limit, connection=connection)
    return [answer for answer in answers or () if isinstance(answer, dict)]


def _by_name(answers: Iterable[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    for answer in answers:
        for name, said in answer.items():
            if isinstance(said, list):
                yield str(name), said
