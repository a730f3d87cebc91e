"""Where a task is, what happened to it, and why it does not run: ``explain(task_id)``.

It reads the result, the task's own state, the queues of a Redis broker (every priority) with what workers hold, and
what the task's policies keep. It changes nothing, and says what it could not see.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from kombu import serialization
from redis import Redis
from redis.exceptions import RedisError

from celery_patterns import protocol
from celery_patterns.store import Store, StoreError, leases
from celery_patterns.tasks import batch_places
from celery_patterns.tasks.headers import HEADER, Tries
from celery_patterns.tasks.keys import bind_arguments
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call
from celery_patterns.tasks.progress import _app as application

LOOKED_THROUGH = 50_000
"""Messages of one list that are looked through; in a longer one the position is "further back"."""

AT_ONCE = 500
"""Messages read by one command: a broker serves others as well."""

_loads: Any = serialization.loads

JSON: Final = ("application/json",)
"""What is read of arguments: looking at a message must never run what somebody put into it."""


@dataclass(slots=True)
class Explanation:
    """What is known of one task."""

    task_id: str
    where: str = "unknown"
    """``queue``, ``worker`` (held or running), ``batch`` (an item, waiting or taken), ``done``, or ``unknown``."""
    task: str | None = None
    state: str | None = None
    """Celery's state of the stored result; None if there is none."""
    sentences: list[str] = field(default_factory=list)
    """For people: what happened, and why it does not run."""
    queue: str | None = None
    position: int | None = None
    """How many messages are before it, over all priorities; 0 is next."""
    worker: str | None = None
    attempt: int | None = None
    deferrals: int | None = None
    deliveries: int | None = None
    progress: dict[str, Any] | None = None
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By policy: what the store holds under the keys that this task asks for."""
    unseen: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def explain(task_id: str, app: Any = None, *, queues: Iterable[str] = ()) -> Explanation:
    """Say where a task is, what happened to it and why it does not run.

    Args:
        task_id: Its id.
        app: The application; None: the current one.
        queues: Further queues to look into; those of the application's configuration are looked into anyway.
    """
    app = application(app)
    found = Explanation(task_id)
    arguments = _result(app, found)
    message = _broker(app, found, queues)
    if message is not None:
        arguments = _read_message(message, found) or arguments
    _task_state(app, found)
    _policies(app, found, arguments)
    if found.where == "unknown" and found.state is None and found.deliveries is None:
        found.sentences.append("nobody knows it: it was never sent here, or what was known of it has expired")
    return found


# ---- the result


def _result(app: Any, found: Explanation) -> tuple[Any, Any] | None:
    try:
        meta = app.backend.get_task_meta(found.task_id, cache=False)
    except Exception as error:  # noqa: BLE001 - whichever backend it is
        found.unseen.append(f"the result backend: {protocol.mask_url(str(error))}")
        return None
    state = str(meta.get("status"))
    if state == "PENDING":
        found.sentences.append("no result is stored: it has not ended, or nobody was to store its result")
        return None
    found.state, found.task, found.worker = state, meta.get("name"), meta.get("worker")
    if state in ("SUCCESS", "FAILURE", "REVOKED"):
        found.where = "done"
    when = f" at {meta['date_done']}" if meta.get("date_done") else ""
    what = {
        "SUCCESS": f"it succeeded{when}",
        "FAILURE": f"it failed{when}: {_brief(meta.get('result'))}",
        "REVOKED": f"it was revoked or dropped{when}: {_brief(meta.get('result'))}",
        "RETRY": f"it failed or was deferred{when}, and comes again: {_brief(meta.get('result'))}",
        "STARTED": "it was started",
    }.get(state, f"its state is {state}")
    found.sentences.append(what)
    if meta.get("args") is None and meta.get("kwargs") is None:
        return None
    return meta.get("args") or (), meta.get("kwargs") or {}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


# ---- the broker


def _broker(app: Any, found: Explanation, queues: Iterable[str]) -> dict[str, Any] | None:
    names = list(dict.fromkeys([*app.amqp.queues, *queues]))
    try:
        with app.connection_for_read() as connection:
            if connection.transport.driver_type != "redis":
                found.unseen.append(
                    f"messages in {connection.transport.driver_type}: it shows a message only by taking it out"
                )
                return None
            return _redis_broker(connection.default_channel, found, names)
    except (RedisError, OSError, *app.connection_for_read().connection_errors) as error:
        found.unseen.append(f"the broker: {protocol.mask_url(str(error))}")
        return None


def _redis_broker(channel: Any, found: Explanation, names: list[str]) -> dict[str, Any] | None:
    client, prefix = _plain(channel)
    for queue in names:
        before = 0
        for step in channel.priority_steps:
            key = prefix + channel._q_for_pri(queue, step)  # noqa: SLF001 - the only one who knows the names
            for offset, raw in _messages(client, key):
                message = _read_entry(raw)
                if message is None:
                    odd = f"an entry of the queue {queue} that is no message"
                    found.unseen += [odd] if odd not in found.unseen else []
                elif _is(message, found.task_id):
                    found.where, found.queue, found.position = "queue", queue, before + offset
                    ahead = "it is next" if not found.position else f"{found.position} messages are before it"
                    found.sentences.append(f"it waits in the queue {queue}: {ahead}")
                    return dict(message)
            before += int(client.llen(key))
    return _held(channel, found)


def _messages(client: Any, key: str) -> Iterator[tuple[int, bytes]]:
    """Yield (position, message), next first: kombu pushes on the left and takes from the right."""
    for start in range(0, LOOKED_THROUGH, AT_ONCE):
        part = client.lrange(key, -start - AT_ONCE, -start - 1)
        for offset, raw in enumerate(reversed(part)):
            yield start + offset, raw
        if len(part) < AT_ONCE:
            return


def _held(channel: Any, found: Explanation) -> dict[str, Any] | None:
    odd = 0
    client, prefix = _plain(channel)
    for index, tag, raw in _unacked(channel, client, prefix):
        held = _read_entry(raw, list)
        if held is None or len(held) != 3 or not isinstance(held[0], dict):
            odd += 1
            continue
        if not _is(held[0], found.task_id):
            continue
        message, _, queue = held
        found.where, found.queue = "worker", queue
        taken = client.zscore(index, tag)
        since = "" if taken is None else f", taken or renewed {max(0.0, time.time() - float(taken)):.0f} s ago"
        found.sentences.append(
            f"a worker has it from the queue {queue}{since}: it runs, is reserved, or waits its time"
        )
        eta = (message.get("headers") or {}).get("eta")
        if eta:
            found.sentences.append(f"it is not due before {eta}")
        return dict(message)
    if odd:
        found.unseen.append(f"{odd} entries of what workers hold that are no messages")
    return None


def _plain(channel: Any) -> tuple[Any, str]:
    """Return a client without kombu's prefix, which it puts before the keys of some commands only, and that prefix."""
    return Redis(connection_pool=channel.pool), str(channel.global_keyprefix or "")


def _unacked(channel: Any, client: Any, prefix: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (index key, tag, entry) of what workers hold, those with a lease included."""
    for suffix in ("", protocol.LEASED_SUFFIX):
        index = f"{prefix}{channel.unacked_index_key}{suffix}"
        for tag, raw in client.hscan_iter(f"{prefix}{channel.unacked_key}{suffix}", count=AT_ONCE):
            yield index, tag, raw


def _read_entry(raw: bytes, form: type = dict) -> Any:
    """Return an entry of a list or of what workers hold; None for one that kombu has not written."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    return entry if isinstance(entry, form) else None


def _is(message: dict[str, Any], task_id: str) -> bool:
    headers = message.get("headers")
    return isinstance(headers, dict) and headers.get("id") == task_id


def _read_message(message: dict[str, Any], found: Explanation) -> tuple[Any, Any] | None:
    headers = message.get("headers") or {}
    found.task = found.task or headers.get("task")
    retries = headers.get("retries")
    tries = Tries.of({HEADER: headers.get(HEADER)}, retries if isinstance(retries, int) else 0)
    found.attempt, found.deferrals = tries.attempt, tries.deferrals
    if tries.attempt > 1 or tries.deferrals:
        found.sentences.append(f"it is at its attempt {tries.attempt}, and was deferred {tries.deferrals} times")
    try:
        body = message["body"]
        if (message.get("properties") or {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        args, kwargs, _ = _loads(body, message.get("content-type"), message.get("content-encoding"), accept=JSON)
    except Exception as error:  # noqa: BLE001 - whatever stands there
        found.unseen.append(f"its arguments: {error!r}")
        return None
    return args, kwargs


# ---- what the patterns know


def _task_state(app: Any, found: Explanation) -> None:
    try:
        store = patterns_of(app).store
        raw = store.call(store.client.hgetall, store.key("task", found.task_id))
        seconds, _ = store.call(store.client.time)
        place = batch_places.find_item(store, found.task_id)
    except (StoreError, ValueError) as error:
        found.unseen.append(str(error))
        return
    if place is not None and found.where == "unknown":
        found.where, found.task = "batch", found.task or place.task
        found.sentences.append(place.sentence)
    record = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}
    if "deliveries" in record:
        found.deliveries = int(record["deliveries"])
    if "done" in record:
        found.progress = {name: record.get(name) or None for name in ("done", "total", "note")}
        found.sentences.append(f"its progress is {record['done']} of {record.get('total') or 'unknown'}")
    if record.get("cancel"):
        found.sentences.append("it was asked to stop")
    until = int(record.get("until") or 0) / 1000
    if record.get("token") and until > seconds:
        found.where, found.worker = "worker", record.get("worker") or found.worker
        found.sentences.append(f"it runs on {found.worker}, whose lease lasts {until - seconds:.0f} s more")
    elif record.get("token") and until:
        found.sentences.append(
            f"its worker {record.get('worker')} is gone: its lease ended {seconds - until:.0f} s ago; "
            "it runs again when the broker delivers its message again"
        )


def _policies(app: Any, found: Explanation, arguments: tuple[Any, Any] | None) -> None:
    task = app.tasks.get(found.task) if found.task else None
    plan = getattr(task, "plan", None)
    if task is None or plan is None or not plan.policies:
        return
    if arguments is None:
        found.unseen.append("what its policies hold: its arguments are unknown (result_extended keeps them)")
        return
    args, kwargs = arguments
    try:
        named = bind_arguments(task, tuple(args), kwargs)
        call = Call(task=task, id=found.task_id, token="", arguments=named)
        for policy in plan.policies:
            step = policy.admission(call)
            if step is not None:
                found.policies[policy.name] = _held_by(task.patterns.store, step.keys, found)
    except (StoreError, LookupError, TypeError, ValueError) as error:
        found.unseen.append(f"what its policies hold: {error}")


def _held_by(store: Store, names: Iterable[str], found: Explanation) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name in names:
        if name == store.key(*leases.FENCES):
            continue  # everybody's
        kind = store.call(store.client.type, name)
        if kind == b"hash":
            raw = store.call(store.client.hgetall, name)
            record = {key.decode(): value.decode(errors="replace")[:200] for key, value in raw.items()}
            held[name] = record
            holder = record.get("holder", "").rpartition("|")[0]
            if holder and holder != found.task_id:
                doing = "has been done by" if record.get("state") == "done" else "is held by"
                found.sentences.append(f"its key {name} {doing} task {holder}")
        elif kind == b"string":
            held[name] = store.call(store.client.get, name).decode(errors="replace")[:200]
    return held
