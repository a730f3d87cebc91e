"""The Redis result backend as the agent uses it: claims, results by id, and the channel of announcements.

All times are the server's own. Every change of a claim is one Lua script that compares the delivery's token, so that
a worker which was thought dead cannot disturb the one that took over.
"""

from __future__ import annotations

import enum
import hashlib
import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol
from celery_patterns.agent import native
from celery_patterns.agent.next_retry import NextRetry
from celery_patterns.agent.redis_errors import ConnectionError, NoScriptError  # noqa: A004 - redis-py's, no OSError

CLAIM_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HMGET', KEYS[1], 'state', 'token', 'until', 'starts')
local starts = 1
if record[1] then
  if record[1] ~= 'running' then return {3, 0, 0} end
  starts = tonumber(record[4])
  if record[2] ~= ARGV[1] then
    local expiry = tonumber(record[3])
    if expiry > now then return {2, expiry, expiry - now} end
    starts = starts + 1
  end
end
if ARGV[6] == '0' and redis.call('EXISTS', KEYS[2]) == 1 then return {4, 0, 0} end
redis.call('HSET', KEYS[1], 'state', 'running', 'token', ARGV[1], 'worker', ARGV[2], 'name', ARGV[3],
           'starts', starts, 'until', string.format('%.0f', now + ARGV[4]))
if starts > 1 then redis.call('HDEL', KEYS[1], 'retry_at', 'retry_with') end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return {1, starts, 0}
"""
"""KEYS: claim, result. ARGV: token, worker, task name, lease (ms), keep (s), 1 if the result was looked at.
Returns {verdict, starts or until, ms left}."""

CONCLUDE_SCRIPT = """
local lost, keep = 0, tonumber(ARGV[#ARGV])
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'token', 'retry_at')
  if record[1] == ARGV[2 * i - 1] then
    if ARGV[2 * i] == 'release' then
      redis.call('HSET', key, 'until', '0')
    else
      local state, rejected = string.match(ARGV[2 * i], '^(%S+) ?(.*)$')
      redis.call('HSET', key, 'state', state)
      if rejected ~= '' then redis.call('HSET', key, 'rejected', rejected) end
      if record[2] then
        local time = redis.call('TIME')
        local left = tonumber(record[2]) - time[1] * 1000 - math.floor(time[2] / 1000)
        redis.call('PEXPIRE', key, string.format('%.0f', math.max(left, 0) + keep))
      end
    end
  else
    lost = lost + 1
  end
end
return lost
"""
"""KEYS: claims. ARGV: for each claim its token and its new state, or 'release'; keep (ms). A state may be followed by a
space and the type of the exception with which it ended without a result. The keys' time to live was
set when they were claimed or last renewed, which is at most a third of a lease ago; where a retry is to come, it counts
from when that is due."""

NOTE_RETRY_SCRIPT = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'retry_at', string.format('%.0f', due), 'retry_with', ARGV[3])
return 1
"""
"""KEYS: claim. ARGV: token, ms until the retry is due, what its message carries. Returns 0 if it is another's now."""

RENEW_SCRIPT = """
local time = redis.call('TIME')
local expiry = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1]))
local keep, renewed = tonumber(ARGV[2]), {}
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'state', 'token', 'until')
  if record[1] == 'running' and record[2] ~= ARGV[i + 2] then
    renewed[i] = 2
  elseif record[1] == 'running' and record[3] ~= '0' then
    redis.call('HSET', key, 'until', expiry)
    redis.call('EXPIRE', key, keep)
    renewed[i] = 1
  else
    renewed[i] = 0
  end
end
return renewed
"""
"""KEYS: claims. ARGV: lease (ms), keep (s), then the token of each. Returns 1 renewed, 2 another's, 0 none running.
What was given back stays so: a renewal that was sent before may be carried out after it."""

RECORD_DONE_SCRIPT = """
redis.call('HSET', KEYS[1], 'state', 'done')
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

RELEASE = "release"
"""Instead of a state in ``conclude``: the claim is given back, and the next delivery may take it at once."""

SOCKET_SECONDS = 5.0
"""One answer of the store. Celery's own default for its results, 120 s, would outlast every lease."""


class Verdict(enum.IntEnum):
    """The store's answer to a claim."""

    CLAIMED = 1
    HELD = 2
    """Another delivery runs it, and its lease is not over."""
    ENDED = 3
    """Done, or abandoned by the operator."""
    RESULT_EXISTS = 4
    """Nobody runs it, but something is stored under its id: look at it, then ask again."""


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """A verdict with the numbers that belong to it."""

    verdict: Verdict
    starts: int = 0
    until_ms: int = 0
    left_ms: int = 0


def is_redis_backend(backend: Any) -> bool:
    """Whether a Celery result backend is the Redis one (or Sentinel, which is one)."""
    redis = sys.modules.get("celery.backends.redis")  # imported where it is in use, and only then importable for sure
    return redis is not None and isinstance(backend, redis.RedisBackend)


class ClaimStore:
    """One connection to the result backend's Redis, for one thread or (by the client's own pool) several.

    Args:
        backend: The application's ``RedisBackend``.
        lease_seconds: How long a claim lives without being renewed.

    Every method may raise ``redis.exceptions.RedisError`` or OSError; each asks once and waits SOCKET_SECONDS at most.
    """

    def __init__(self, backend: Any, *, lease_seconds: float) -> None:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - redis is there if the backend is
        from redis.retry import Retry  # noqa: PLC0415

        self._backend = backend
        self._lease_ms = str(int(lease_seconds * 1000))
        task_prefix: bytes = backend.task_keyprefix
        self.key_prefix = task_prefix.decode().removesuffix(protocol.RESULT_KEY_PREFIX)
        """The backend's effective ``global_keyprefix`` (Celery appends ``_`` if it ends in no separator)."""
        parameters = dict(backend.connparams)
        # Whoever calls knows how long it may wait; the driver's own back-off would take ten seconds and more.
        parameters |= {"socket_timeout": SOCKET_SECONDS, "retry": Retry(NoBackoff(), 1), "retry_on_timeout": False}
        if "path" not in parameters:
            parameters["socket_connect_timeout"] = SOCKET_SECONDS
        self.client = backend._create_client(**parameters)  # noqa: SLF001 - the way its own client is made
        self.channel = protocol.announce_channel(int(backend.connparams.get("db") or 0), self.key_prefix)
        self._claim_sha = hashlib.sha1(CLAIM_SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self._claiming = threading.local()
        self._conclude = self.client.register_script(CONCLUDE_SCRIPT)
        self._note_retry = self.client.register_script(NOTE_RETRY_SCRIPT)
        self._renew = self.client.register_script(RENEW_SCRIPT)
        self._record_done = self.client.register_script(RECORD_DONE_SCRIPT)

    def key(self, task_id: str, retries: int) -> str:
        """Return the key of an attempt's claim."""
        return protocol.claim_key(task_id, retries, self.key_prefix)

    def claim(
        self, task_id: str, retries: int, *, token: str, worker: str, name: str, result_seen: bool
    ) -> ClaimAnswer:
        """Try to take the attempt for the delivery ``token``; asking twice with one token is harmless."""
        key, result_key = self.key(task_id, retries), self._backend.get_key_for_task(task_id)
        verdict, number, left = self._ask_to_claim(
            2, key, result_key, token, worker, name, self._lease_ms, protocol.CLAIM_KEEP_SECONDS, int(result_seen)
        )
        if verdict == Verdict.CLAIMED:
            return ClaimAnswer(Verdict.CLAIMED, starts=number)
        return ClaimAnswer(Verdict(verdict), until_ms=number, left_ms=left)

    def _ask_to_claim(self, *arguments: Any) -> Any:
        """Run the claim's script on a connection that this thread keeps.

        Every workflow's task waits for this one answer, and the driver's pool and metrics would triple its cost. A
        kept connection may have been closed by the server meanwhile, which shows only now: so it is tried twice.
        """
        if native.GREEN:  # every task has a greenlet of its own there: a connection for each would never end
            connection = self._new_connection()
            try:
                return self._ask_twice(connection, arguments)
            finally:
                self.client.connection_pool.release(connection)
        connection = getattr(self._claiming, "connection", None)
        if connection is None:
            connection = self._claiming.connection = self._new_connection()
        return self._ask_twice(connection, arguments)

    def _ask_twice(self, connection: Any, arguments: tuple[Any, ...]) -> Any:
        try:
            return _evaluate(connection, self._claim_sha, arguments)
        except ConnectionError:
            return _evaluate(connection, self._claim_sha, arguments)

    def _new_connection(self) -> Any:
        """Take a connection out of the pool; before release 5.3 redis-py wanted a command's name and did not use it."""
        import redis  # noqa: PLC0415 - a worker without Redis imports this module too

        pool = self.client.connection_pool
        return pool.get_connection() if redis.VERSION >= (5, 3) else pool.get_connection("EVALSHA")

    def conclude(self, claims: Sequence[tuple[str, str, str]]) -> int:
        """Write (key, token, new state or RELEASE) for each; returns how many belonged to another delivery by now."""
        arguments = [argument for _, token, state in claims for argument in (token, state)]
        arguments.append(str(protocol.CLAIM_KEEP_SECONDS * 1000))
        return int(self._conclude(keys=[key for key, _, _ in claims], args=arguments))

    def note_retry(self, key: str, token: str, retry: NextRetry) -> bool:
        """Note in a claim, before it is concluded, when Celery's own retry is due; False if it is another's by now."""
        milliseconds = math.ceil(retry.seconds * 1000)
        return bool(self._note_retry(keys=[key], args=[token, milliseconds, retry.note.to_text()]))

    def renew(self, claims: Sequence[tuple[str, str]]) -> list[int]:
        """Extend the lease of each (key, token); returns 1, 2 or 0 for each, see RENEW_SCRIPT."""
        arguments = [self._lease_ms, protocol.CLAIM_KEEP_SECONDS, *(token for _, token in claims)]
        return [int(answer) for answer in self._renew(keys=[key for key, _ in claims], args=arguments)]

    def record_done(self, key: str) -> None:
        """Note that the attempt ended, where no claim says so but a result does."""
        self._record_done(keys=[key], args=[protocol.CLAIM_KEEP_SECONDS])

    def results(self, task_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return the decoded result records (Celery's ``status``, ``result``, ...) of the ids; None for absent ones."""
        if not task_ids:
            return []
        payloads = self.client.mget([self._backend.get_key_for_task(task_id) for task_id in task_ids])
        return [self._backend.decode(payload) if payload else None for payload in payloads]

    def result_sizes(self, task_ids: Sequence[str]) -> list[int]:
        """Return the stored bytes of each result record."""
        pipe = self.client.pipeline(transaction=False)
        for task_id in task_ids:
            pipe.strlen(self._backend.get_key_for_task(task_id))
        return [int(size) for size in pipe.execute()]

    def publish(self, text: str) -> None:
        """Publish one message on the channel of announcements."""
        self.client.publish(self.channel, text)

    def prepare(self) -> None:
        """Connect and load the scripts, so that the first task need not."""
        self.client.script_load(CLAIM_SCRIPT)
        if not native.GREEN:
            self._claiming.connection = self._new_connection()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def _evaluate(connection: Any, sha: str, arguments: tuple[Any, ...]) -> Any:
    try:
        connection.send_command("EVALSHA", sha, *arguments)
        try:
            return connection.read_response()
        except NoScriptError:
            connection.send_command("EVAL", CLAIM_SCRIPT, *arguments)
            return connection.read_response()
    except BaseException:
        # Whatever cut it short, an answer may still be under way: the connection must not be used again with it.
        connection.disconnect()
        raise
