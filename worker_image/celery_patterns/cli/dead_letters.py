"""``celery-patterns dlq``: list, show, replay, patch and purge dead letters."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from celery_patterns.cli.application import add_arguments, application
from celery_patterns.cli.exits import CommandError, Exit
from celery_patterns.cli.tables import ago, say, say_json, table
from celery_patterns.resilience.letters import REASONS, Letter
from celery_patterns.resilience.patching import PatchError, patch, read_arguments
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.poison import Deliveries
from celery_patterns.resilience.replay import ReplayRefused, Replays
from celery_patterns.store import StoreNotConfigured
from celery_patterns.store.settings import store_url
from celery_patterns.tasks import options as checks
from celery_patterns.tasks.patterns import patterns_of

TEXT_BYTES = 4_000


def add_commands(commands: Any) -> None:
    """Add ``dlq`` and its commands."""
    group = commands.add_parser("dlq", help="dead letters: list, show, replay, purge").add_subparsers(required=True)
    listing = group.add_parser("list", help="what will not run again, newest first")
    listing.add_argument("--limit", type=int, default=50, help="letters to show (default 50)")
    listing.set_defaults(run=run_list)
    show = group.add_parser("show", help="one letter with its message and traceback")
    show.add_argument("id")
    show.set_defaults(run=run_show)
    replay = group.add_parser("replay", help="send letters again: the same id, as if never tried")
    replay.add_argument("id", nargs="*")
    replay.add_argument("--all", action="store_true", help="all letters that the filters leave")
    replay.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="args[0]=5, kwargs.name=x")
    replay.add_argument("--delete", action="append", default=[], metavar="PATH", help="kwargs.old")
    replay.add_argument("--to", metavar="QUEUE", help="another queue than the one it came from")
    replay.add_argument("--keep", action="store_true", help="keep the letters, too")
    replay.set_defaults(run=run_replay)
    purge = group.add_parser("purge", help="remove letters for good")
    purge.add_argument("id", nargs="*")
    purge.add_argument("--all", action="store_true", help="all letters that the filters leave")
    purge.set_defaults(run=run_purge)
    for each in (listing, replay, purge):
        each.add_argument("--reason", choices=REASONS)
        each.add_argument("--task", help="of tasks of this name")
        each.add_argument("--hash", help="with this traceback hash: failures at the same place")
        each.add_argument("--older", metavar="AGE", help="older than 12h, 7d, ...")
    for each in (listing, show, replay, purge):
        each.add_argument("--queue", help="of this queue only")
        add_arguments(each)


def run_list(options: argparse.Namespace) -> int:
    """List letters."""
    with application(options) as app, closing(letters_of(app)) as letters:
        counts = letters.queues()
        found = list(islice(_chosen(letters, options, counts), options.limit))
    if options.json:
        say_json({"queues": counts, "letters": [letter.summary() for letter in found]})
        return Exit.WELL
    if not found:
        say("No dead letters." if not options.queue else f"No dead letters of {options.queue}.")
        return Exit.WELL
    now = time.time()
    rows = [
        (letter.id, ago(now - letter.at_ms / 1000), letter.queue, letter.reason, letter.message.task or "-",
         letter.attempts or "-", letter.traceback_hash or "-", letter.error)
        for letter in found
    ]  # fmt: skip
    say(table(("ID", "AGE", "QUEUE", "REASON", "TASK", "TRIES", "PLACE", "ERROR"), rows))
    for queue, count in counts.items():
        if options.queue in (None, queue):
            dropped = f"; {count['dropped']} older ones were dropped for their number" if count.get("dropped") else ""
            say(f"{queue}: {count['waiting']} dead letters{dropped}")
    return Exit.WELL


def run_show(options: argparse.Namespace) -> int:
    """Show one letter."""
    with application(options) as app, closing(letters_of(app)) as letters:
        letter = _one(letters, options.queue, options.id)
    message = letter.message
    try:
        arguments: Any = read_arguments(message)[:2]
    except PatchError as error:
        arguments = str(error)
    body = message.body[:TEXT_BYTES].decode(errors="backslashreplace")
    if options.json:
        say_json(
            {
                **letter.summary(),
                "traceback": letter.traceback,
                "arguments": arguments,
                "headers": message.headers,
                "properties": message.properties,
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
                "body": body,
            }
        )
        return Exit.WELL
    for name, value in letter.summary().items():
        say(f"{name:<15} {value}")
    say(f"{'content':<15} {message.content_type}; {message.content_encoding}")
    say(f"{'headers':<15} {message.headers}")
    if isinstance(arguments, list):
        say(f"{'args':<15} {arguments[0]}")
        say(f"{'kwargs':<15} {arguments[1]}")
    else:
        say(f"{'body':<15} {body}")
    if letter.traceback:
        say()
        say(letter.traceback.rstrip())
    return Exit.WELL


def run_replay(options: argparse.Namespace) -> int:
    """Send letters again."""
    results: list[dict[str, Any]] = []
    with application(options) as app, closing(letters_of(app)) as letters:
        chosen = _wanted(letters, options)
        try:
            _replay(app, letters, chosen, options, results)
        finally:
            # Also when the broker goes away in the middle: what was sent until then was sent.
            if results or not chosen:
                _say_replayed(results, len(chosen), as_json=options.json)
    return Exit.WELL if all(result["replayed"] for result in results) else Exit.FOUND


def _replay(
    app: Any, letters: Any, chosen: list[Letter], options: argparse.Namespace, results: list[dict[str, Any]]
) -> None:
    deliveries = Deliveries(_store(app))
    with Replays(app) as replays:
        for letter in chosen:
            try:
                mended = dataclasses.replace(letter, message=patch(letter.message, options.set, options.delete))
                deliveries.clear(letter.message.task_id)
                queue = replays.send(mended, options.to)
            except (PatchError, ReplayRefused) as error:
                results.append({"id": letter.id, "replayed": False, "why": str(error)})
                continue
            results.append({"id": letter.id, "replayed": True, "queue": queue, "task_id": letter.message.task_id})
            # Sent before it is removed: a letter that is interrupted in between may be sent twice, but never lost.
            if not options.keep:
                letters.remove(letter.queue, [letter.id])


def _say_replayed(results: list[dict[str, Any]], chosen: int, *, as_json: bool) -> None:
    if as_json:
        say_json(results)
        return
    for result in results:
        say(f"{result['id']}  " + (f"to {result['queue']}" if result["replayed"] else f"not sent: {result['why']}"))
    say(f"{sum(result['replayed'] for result in results)} of {chosen} replayed.")


def run_purge(options: argparse.Namespace) -> int:
    """Remove letters."""
    with application(options) as app, closing(letters_of(app)) as letters:
        gone = 0
        for letter in _wanted(letters, options):
            gone += letters.remove(letter.queue, [letter.id])
    if options.json:
        say_json({"removed": gone})
    else:
        say(f"{gone} dead letters removed.")
    return Exit.WELL


# ---- which letters


def _store(app: Any) -> Any:
    store = patterns_of(app).store
    try:
        store_url(store.settings, app.conf)
    except StoreNotConfigured:
        return None
    return store


def _queues(letters: Any, queue: str | None) -> list[str]:
    return [queue] if queue else sorted(letters.queues())


def _one(letters: Any, queue: str | None, letter_id: str) -> Letter:
    for each in _queues(letters, queue):
        try:
            letter: Letter | None = letters.get(each, letter_id)
        except Exception as error:
            if "Invalid stream ID" not in str(error):
                raise
            letter = None
        if letter is not None:
            return letter
    where = f"in {queue}" if queue else "in any queue"
    raise CommandError(f"there is no dead letter {letter_id} {where}; see celery-patterns dlq list", Exit.FOUND)


def _chosen(letters: Any, options: argparse.Namespace, queues: Any = None) -> Iterator[Letter]:
    edge = None
    if options.older:
        edge = (time.time() - checks.duration("--older", options.older)) * 1000
    for queue in [options.queue] if options.queue else sorted(queues if queues is not None else letters.queues()):
        for letter in letters.scan(queue):
            if (
                options.reason in (None, letter.reason)
                and options.task in (None, letter.message.task)
                and options.hash in (None, letter.traceback_hash)
                and (edge is None or letter.at_ms < edge)
            ):
                yield letter


def _wanted(letters: Any, options: argparse.Namespace) -> list[Letter]:
    filters = any((options.reason, options.task, options.hash, options.older))
    if bool(options.id) == bool(options.all or filters):
        raise CommandError("name letters by their ids, or choose them by --reason, --task, --hash, --older or --all")
    if options.id:
        return [_one(letters, options.queue, letter_id) for letter_id in options.id]
    # Oldest first: they are sent again in the order in which they came.
    return list(_chosen(letters, options))[::-1]
