"""The lease of what a worker holds on a Redis broker: renewed while the worker lives, over soon after it is killed.

Celery on Redis notes for each message when a worker took it, and gives it to another one when that is longer ago
than ``visibility_timeout``, an hour by default: too long for a killed worker, too short for a long task. Here the main
process renews that time every second for all it holds, tasks with an ETA included. So a visibility timeout no longer
repeats a task that lasts longer.

With CELERY_AGENT_LEASE_SECONDS it goes one step further: what agents hold is listed under keys of its own, where
messages whose lease ran out go back to their queues within seconds. Consumers without an agent neither see these keys
nor are seen through them; what they hold keeps Celery's own timeout. So a short lease is safe beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from celery.worker import state
from kombu.exceptions import KombuError
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from celery_patterns import protocol
from celery_patterns.agent import native
from celery_patterns.agent.redis_errors import RedisError

logger = native.Logger(__name__)

RENEW_SECONDS = 1.0
"""How often leases are renewed: one short script, far below a thousandth of a core."""
CONFIRM_SECONDS = 1.5
"""A lease is over when it was seen so twice, this long apart. A message is first noted with its worker's own clock,
which may be wrong; the first renewal, at most RENEW_SECONDS later, writes the server's time."""
SUSPECT_SECONDS = 60
"""A suspicion that has led to nothing for so long is forgotten: what it was about has ended by itself."""
LOOK_SECONDS = 0.9
"""How often one of all workers looks for leases that are over."""
STRAY_SECONDS = 60.0
"""How often the keys of consumers without an agent are looked after, by Celery's own rule."""
SOCKET_SECONDS = 5.0
"""One answer of the broker: the thread must not wait for one that will never come."""
GREEN_CONNECTIONS = 1000
"""kombu's pool has 10, and with more greenlets than that an acknowledgement that finds none free is lost."""
MANY = 500
"""Messages in one command."""
TRIES = 20
"""A table that another thread changes cannot be copied just then; a few tries are enough."""

RENEW_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local renewed = 0
for i = 1, #ARGV do renewed = renewed + redis.call('ZADD', KEYS[1], 'XX', 'CH', now, ARGV[i]) end
return renewed
"""
"""KEYS: index. ARGV: delivery tags. Only what the index still lists is renewed: an acknowledged message stays away."""

LOOK_SCRIPT = """
if not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[3]) then return {} end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local over = {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[5])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for i = 1, #old, 2 do
  local tag, suspect = old[i], old[i] .. '|' .. old[i + 1]
  if redis.call('HEXISTS', KEYS[3], tag) == 0 then
    redis.call('ZREM', KEYS[1], tag)
  else
    local since = redis.call('ZSCORE', KEYS[2], suspect)
    if not since then
      redis.call('ZADD', KEYS[2], now, suspect)
    elseif now - since >= tonumber(ARGV[2]) then
      over[#over + 1] = tag
    end
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[5])
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now + 1, '+inf', 'LIMIT', 0, ARGV[4])) do
  redis.call('ZADD', KEYS[1], 'XX', now, tag)
end
return over
"""
"""KEYS: index, suspects, held messages, the turn to look. ARGV: lease (s), confirm (s), a turn's length (ms), many, how
long a suspicion is kept (s). Returns tags whose lease is over. What is suspected is a message as it was noted: one that
was renewed, or given back and taken again, is suspected anew. A time in the future comes from a worker whose clock is
ahead, and is corrected."""

GIVE_BACK_SCRIPT = """
local time = redis.call('TIME')
local since = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not since or tonumber(since) > time[1] + time[2] / 1000000 - ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
for i = 3, #KEYS do redis.call('RPUSH', KEYS[i], ARGV[i]) end
return 1
"""
"""KEYS: index, held messages, lists. ARGV: tag, lease (s), a message for each list. Returns 1 if this call gave it
back."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names under which one kind of consumer keeps what it holds, without the transport's key prefix."""

    held: str
    index: str
    mutex: str

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Keys:
        """Return the names that a broker's transport options give."""
        return cls(
            held=str(options.get("unacked_key", "unacked")),
            index=str(options.get("unacked_index_key", "unacked_index")),
            mutex=str(options.get("unacked_mutex_key", "unacked_mutex")),
        )

    def leased(self) -> Keys:
        """Return the names for what agents hold."""
        suffix = protocol.LEASED_SUFFIX
        return Keys(self.held + suffix, self.index + suffix, self.mutex + suffix)

    def options(self) -> dict[str, str]:
        """Return the transport options that set these names."""
        return {"unacked_key": self.held, "unacked_index_key": self.index, "unacked_mutex_key": self.mutex}


class Lease:
    """The leases of one worker. Made before the worker connects, because it may change what its consumer is told.

    Args:
        app: The Celery application.
        lease_seconds: The short lease; None keeps the broker's visibility timeout and only renews.
    """

    def __init__(self, app: Any, lease_seconds: float | None) -> None:
        self.refusal = ""
        """Why there is no short lease though one was asked for."""
        self.seconds: float | None = None
        """The short lease that is kept."""
        self._options = dict(app.conf.broker_transport_options or {})
        self._keys = Keys.of(self._options)
        self._consumer: Any = None
        self._moved = False
        self._broker: _Broker | None = None
        self._stopping = False
        self._strays_at = time.monotonic()
        self._failing = False
        self._thread = native.Thread(self._run, name="celery-patterns-lease")
        if native.GREEN and "max_connections" not in self._options:
            self._options["max_connections"] = GREEN_CONNECTIONS
            app.conf.broker_transport_options = dict(self._options)
        unfit = _unfit(app, self._options)
        self.renews = not unfit
        if lease_seconds is None:
            return
        if unfit:
            self.refusal = unfit
            return
        self.seconds = lease_seconds
        self._keys = self._keys.leased()
        app.conf.broker_transport_options = {**self._options, **self._keys.options()}

    def start(self) -> None:
        """Begin to renew, from a thread of its own."""
        if self.refusal:
            logger.warning(
                "no lease of the messages that this worker holds, the broker's own rule stays: %s", self.refusal
            )
        if self.renews:
            self._thread.start()

    def connected(self, consumer: Any) -> None:
        """Take up a consumer that is about to consume (again)."""
        self._consumer = consumer
        self._moved = True

    def stop(self) -> None:
        """Renew no more; what is still held comes back to its queue by itself."""
        self._stopping = True

    # ---- the thread

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                self._round(began)
                self._failing = False
            except (RedisError, OSError, KombuError) as error:
                if not self._failing:
                    logger.warning("leases cannot be renewed, no answer of the broker: %s", _masked(error))
                self._start_anew()
            except Exception:
                if not self._failing:
                    logger.exception("leases cannot be renewed")
                self._start_anew()
            native.sleep(max(0.05, RENEW_SECONDS - (time.monotonic() - began)))

    def _start_anew(self) -> None:
        """Connect again in the next round; an outage is told of once."""
        self._failing = True
        self._disconnect()

    def _round(self, now: float) -> None:
        if self._consumer is None or (self._broker is None and self._consumer.connection is None):
            return  # not connected yet, or not at the moment
        tags = self._held_tags()
        if not tags and self.seconds is None:
            return
        broker = self._connected()
        for some in _chunks(tags):
            broker.renew(some)
        if self.seconds is not None:
            for tag in broker.look(self.seconds):
                self._give_back(broker, tag, self.seconds)
            if now - self._strays_at >= STRAY_SECONDS:
                self._strays_at = now
                broker.restore_strays()

    def _give_back(self, broker: _Broker, tag: str, lease_seconds: float) -> None:
        name = broker.give_back(tag, lease_seconds)
        if name:
            logger.warning(
                "task %s is back in its queue: the worker that held it has been silent for %g s", name, lease_seconds
            )

    def _held_tags(self) -> list[str]:
        """Return the delivery tags of all that this worker holds."""
        channel = getattr(getattr(self._consumer, "task_consumer", None), "channel", None)
        qos = getattr(channel, "_qos", None)  # the property would make one, beside the worker's own thread
        held = set() if qos is None else _copy(qos._delivered) - _copy(qos._dirty)  # noqa: SLF001 - see _unfit
        # After a lost connection the new channel knows nothing of what still runs.
        held |= {request.message.delivery_tag for request in _copy(state.active_requests)}
        return [tag for tag in held if isinstance(tag, str)]

    def _connected(self) -> _Broker:
        if self._moved:  # after a reconnect the broker may be another server
            self._moved = False
            self._disconnect()
        if self._broker is None:
            self._broker = _Broker(self._consumer.connection, self._options, self._keys)
        return self._broker

    def _disconnect(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            try:
                broker.close()
            except Exception as error:  # noqa: BLE001 - it is broken anyway
                logger.debug("a broken connection could not be closed: %s", error)


class _Broker:
    """The lease thread's own connection, to the server that the worker consumes from.

    Args:
        connection: The consumer's connection.
        options: The application's transport options.
        keys: Under which the worker's messages are listed.
    """

    def __init__(self, connection: Any, options: Mapping[str, Any], keys: Keys) -> None:
        from redis import Redis  # noqa: PLC0415 - redis is there if the broker is

        # Its channel keeps the keys of consumers without an agent: restore_strays() looks after those.
        bounded = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS}
        self._kombu = connection.clone(transport_options={**options, **Keys.of(options).options(), **bounded})
        try:
            self._channel = self._kombu.channel()
        except BaseException:
            self._kombu.release()
            raise
        self._prefix = str(self._channel.global_keyprefix or "")
        # Not the channel's own client, which puts the prefix before a script's first key only.
        client: Any = Redis(connection_pool=self._channel.pool)
        self._renew = client.register_script(RENEW_SCRIPT)
        self._look = client.register_script(LOOK_SCRIPT)
        self._give_back = client.register_script(GIVE_BACK_SCRIPT)
        self._client = client
        self._index = self._prefix + keys.index
        self._held = self._prefix + keys.held
        self._suspects = f"{self._index}:suspects"
        self._turn = f"{self._index}:turn"

    def renew(self, tags: Sequence[str]) -> None:
        """Begin the leases anew."""
        self._renew(keys=[self._index], args=list(tags))

    def look(self, lease_seconds: float) -> list[str]:
        """Return the tags whose lease is over, if it is this worker's turn to look."""
        keys = [self._index, self._suspects, self._held, self._turn]
        turn_ms = int(LOOK_SECONDS * 1000)
        found = self._look(keys=keys, args=[lease_seconds, CONFIRM_SECONDS, turn_ms, MANY, SUSPECT_SECONDS])
        return [bytes_to_str(tag) for tag in found]  # type: ignore[no-untyped-call]

    def give_back(self, tag: str, lease_seconds: float) -> str:
        """Put a message at the head of its queue; returns its task's name and id, or "" if it was not done here."""
        raw = self._client.hget(self._held, tag)
        if raw is None:
            return ""
        payload, exchange, routing_key = loads(bytes_to_str(raw))  # type: ignore[no-untyped-call]
        pushed = _Pushed()
        self._channel._do_restore_message(payload, exchange, routing_key, pushed)  # noqa: SLF001 - knows the queues' lists
        if not pushed.messages:
            return ""
        lists = [self._prefix + name for name, _ in pushed.messages]
        texts = [text for _, text in pushed.messages]
        keys = [self._index, self._held, *lists]
        done = self._give_back(keys=keys, args=[tag, lease_seconds, *texts])
        headers = payload.get("headers") or {}
        return f"{headers.get('task')}[{headers.get('id')}]" if done else ""

    def restore_strays(self) -> None:
        """Do what a consumer without an agent does for its like: their own workers may all be gone."""
        self._channel.qos.restore_visible(interval=1)

    def close(self) -> None:
        """Close the connection."""
        self._kombu.release()


class _Pushed:
    """Stands for kombu's pipeline where it says into which lists a message goes back."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def rpush(self, name: str, message: str) -> None:
        """Note a push."""
        self.messages.append((name, message))


def _unfit(app: Any, options: Mapping[str, Any]) -> str:
    """Return why leases cannot be kept, or "" if they can.

    What a consumer holds is a private table of kombu's; if it is not as it was when this was written, nothing is
    touched.
    """
    if app.connection_for_read().transport.driver_type != "redis":
        return "the broker is no Redis, and gives back what a lost connection held at once"
    if not options.get("ack_emulation", True):
        return "the transport option ack_emulation is off: nothing notes what a worker holds"
    from kombu.transport import redis  # noqa: PLC0415 - only where the broker is one

    qos: Any = redis.QoS(channel=SimpleNamespace(do_restore=False))  # type: ignore[no-untyped-call]
    try:
        qos._quick_append("tag", "message")  # noqa: SLF001 - this is the contract
        qos._quick_ack("tag")  # noqa: SLF001
        as_known = list(qos._delivered) == ["tag"] and set(qos._dirty) == {"tag"}  # noqa: SLF001
        qos._delivered.clear()  # noqa: SLF001 - nothing to restore when it is collected
        qos._dirty.clear()  # noqa: SLF001
    except (AttributeError, TypeError):
        as_known = False
    if not as_known or not callable(getattr(redis.Channel, "_do_restore_message", None)):
        return "this release of kombu notes in another way what a worker holds"
    return ""


def _masked(error: Exception) -> str:
    return protocol.mask_url(str(error))


def _copy(items: Iterable[Any]) -> set[Any]:
    for _ in range(TRIES):
        try:
            return set(items)
        except RuntimeError:
            continue
    return set()


def _chunks(tags: Sequence[str]) -> Iterator[Sequence[str]]:
    return (tags[start : start + MANY] for start in range(0, len(tags), MANY))
