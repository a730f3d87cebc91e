"""Which of Redis's pub/sub channels are used, on broker, result backend and store, what for, and how to do without.

An ACL allows PUBLISH and SUBSCRIBE by a pattern that fits the channel's name, but PSUBSCRIBE only by the very pattern
that is subscribed to: ``&/0.celeryev/*`` does not allow it for ``/0.celeryev/worker.*``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol
from celery_patterns.cli.findings import Level
from celery_patterns.store import names

NO_WORKFLOWS = "where there are no workflows"
REVOKING, HEARING = "celery-operator, to revoke tasks", "celery-operator, to hear of tasks that have ended"

FANOUT_PREFIX = "/{db}."
"""kombu's, before the name of each exchange that sends to all: pub/sub does not know of databases."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel, or all of one pattern."""

    rule: str
    """The pattern with which an ACL allows it."""
    asked: tuple[tuple[str, str], ...]
    """Commands, each with a name or pattern, as they are really used."""
    use: str = ""
    """What alone needs it; empty: every worker, or whoever sends or waits for tasks."""
    without: str = ""
    """How to do without it, after "may be left out"."""
    lacking: Level = Level.ERROR
    """How bad it is if it is refused."""


def of_broker(app: Any, db: int) -> tuple[Channel, ...]:
    """Return what kombu's exchanges that send to all need: remote control, events, broadcasts of the application."""
    conf = app.conf
    options = dict(conf.broker_transport_options or {})
    controls = [
        Channel(
            topic,
            (("PSUBSCRIBE", topic), ("PUBLISH", topic)),
            use="remote control: celery inspect, control and revoke, mingle, doctor; workers end without it",
            without="with worker_enable_remote_control = False and --without-mingle",
            lacking=Level.ERROR if conf.worker_enable_remote_control else Level.WARNING,
        )
        for topic in _topics(options, db, f"{conf.control_exchange}.pidbox")
    ]
    gossips = [
        Channel(
            topic,
            (("PSUBSCRIBE", topic),),
            use="gossip; workers end without it",
            without="with --without-gossip",
            lacking=Level.WARNING,
        )
        for topic in _topics(options, db, conf.event_exchange, "worker.*")
    ]
    events = [
        Channel(
            topic,
            (("PUBLISH", topic.replace("*", "task.sent")),),
            use="events: Flower and other monitors",
            without="with --without-heartbeat and no events",
            lacking=Level.WARNING,
        )
        for topic in _topics(options, db, conf.event_exchange, "*")
    ]
    return (*controls, *gossips, *events, *_broadcasts(app, options, db))


def _broadcasts(app: Any, options: dict[str, Any], db: int) -> Iterator[Channel]:
    """Yield what the application's own queues that get every message need."""
    for queue in app.amqp.queues.values():
        exchange = queue.exchange
        if exchange is None or exchange.type != "fanout":
            continue
        for topic in _topics(options, db, exchange.name, str(queue.routing_key or "").replace("#", "*")):
            yield Channel(
                topic,
                (("PSUBSCRIBE", topic), ("PUBLISH", topic.replace("*", "0"))),
                use=f"messages to all who listen to {exchange.name}",
                without="where there is no such queue",
            )


def _topics(options: dict[str, Any], db: int, exchange: str, routing_key: str = "") -> list[str]:
    """Return the channels of one exchange: two while Sentinel's users come from an old kombu, else one."""
    set_to = options.get("fanout_prefix", True)
    prefix = (set_to if isinstance(set_to, str) else FANOUT_PREFIX) if set_to else ""
    name = f"{exchange}/{routing_key}" if routing_key and options.get("fanout_patterns", True) else exchange
    prefixes = [prefix.replace("{db}", str(db))]
    if options.get("sentinel_fanout_compat") and prefix not in prefixes:
        prefixes.append(prefix)
    return [f"{options.get('global_keyprefix') or ''}{each}{name}" for each in prefixes]


def of_results(*prefixes: str) -> tuple[Channel, ...]:
    """Return what results and saved groups need, whose keys begin so: their channels have the same names."""
    return tuple(
        Channel(names.literal(prefix) + "*", (("PUBLISH", f"{prefix}0"), ("SUBSCRIBE", f"{prefix}0")))
        for prefix in prefixes
    )


def of_agent(db: int, key_prefix: str) -> tuple[Channel, ...]:
    """Return what the agent needs on a result backend of this database number and ``global_keyprefix``."""
    channel = protocol.announce_channel(db, key_prefix)
    return (
        Channel(
            names.literal(channel),
            (("PUBLISH", channel),),
            use="announcements of finished workflow tasks",
            without=NO_WORKFLOWS,
            lacking=Level.WARNING,
        ),
    )


def of_operator_on_broker(app: Any, db: int) -> tuple[Channel, ...]:
    """Return what celery-operator needs to revoke tasks."""
    options = dict(app.conf.broker_transport_options or {})
    topics = _topics(options, db, f"{app.conf.control_exchange}.pidbox")
    return tuple(
        Channel(topic, (("PUBLISH", topic),), use=REVOKING, without=NO_WORKFLOWS, lacking=Level.WARNING)
        for topic in topics
    )


def of_operator_on_results(db: int, key_prefix: str) -> tuple[Channel, ...]:
    """Return what celery-operator needs to hear of tasks that have ended."""
    channel = protocol.announce_channel(db, key_prefix)
    return (
        Channel(
            names.literal(channel), (("SUBSCRIBE", channel),), use=HEARING, without=NO_WORKFLOWS, lacking=Level.WARNING
        ),
    )


def of_store(prefix: str) -> tuple[Channel, ...]:
    """Return what the patterns' store needs, whose keys have this prefix."""
    heard = f"{names.pattern(prefix, 'circuit')}:changes"
    return (
        Channel(
            heard,
            (("PUBLISH", f"{names.key(prefix, 'circuit', '0')}:changes"), ("PSUBSCRIBE", heard)),
            use="listening to the changes of circuits",
            without="where nobody listens",
            lacking=Level.UNKNOWN,
        ),
    )
