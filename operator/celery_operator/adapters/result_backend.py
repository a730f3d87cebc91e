"""A Redis result backend, as the operator reads it: results, claims, announcements.

Results are Celery's own records (JSON serializer); claims are written by the guard in the workers' agent. The layout of
both is in ``celery_patterns.protocol``. Whatever depends on time is decided by the server's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from celery_operator.adapters.asking import explain
from celery_operator.adapters.redis_client import bounded, connection_options, open_redis
from celery_operator.domain.errors import ResultBackendError
from celery_operator.domain.messages import Claim, ResultState, Resumption, TaskResult
from celery_patterns.protocol import (
    CLAIM_ABANDONED,
    CLAIM_DONE,
    CLAIM_KEEP_SECONDS,
    CLAIM_RUNNING,
    MESSAGE_CHARACTERS,
    RESULT_KEY_PREFIX,
    Announcement,
    RetryNote,
    announce_channel,
    claim_key,
    mask_url,
)

READ_AT_ONCE = 200
"""Ids in one exchange. Results may be large, and the server answers nobody else meanwhile."""

SILENCE_SECONDS = 5.0
"""A subscription that hears nothing for so long asks the server for a sign of life and waits as long again: a half-open
connection is noticed within ten seconds."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""Between attempts to subscribe again."""

ANNOUNCEMENTS_AT_ONCE = 200
"""Bounds one batch, so that whoever consumes it can do something else in between: reading 200 takes some 10 ms."""

CLAIM_FIELDS = ["state", "worker", "until", "starts", "retry_at", "retry_with", "rejected"]

MOST_RETRIES = 1000
"""Celery's own retries of one attempt that are followed; its default is 3."""

ABANDON_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keep, most, states = tonumber(ARGV[1]), tonumber(ARGV[2]), {}

local function status_of(key)
  local head = redis.call('GETRANGE', key, 0, 63)
  if head == '' then return nil end
  local status = string.match(head, '^{"status": "(%u+)"')
  if status then return status end
  local ok, meta = pcall(cjson.decode, redis.call('GET', key))
  if ok and type(meta) == 'table' then return meta['status'] end
  return 'SUCCESS'
end

for i = 1, #KEYS, 2 do
  local status, base, retries = status_of(KEYS[i + 1]), string.sub(KEYS[i], 1, -2), 0
  local final = status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' or status == 'REJECTED'
  local key, record, answer = KEYS[i], nil, 0
  if not final then
    record = redis.call('HMGET', key, 'state', 'until')
    while record[1] == 'done' and retries < most do
      local following = base .. (retries + 1)
      local found = redis.call('HMGET', following, 'state', 'until')
      if not found[1] and status ~= 'RETRY' then break end
      retries, key, record = retries + 1, following, found
    end
    local over = record[1] == 'running' and tonumber(record[2] or '0') <= now
    if record[1] == 'abandoned' then
      answer = 1
    elseif not record[1] or over then
      redis.call('HSET', key, 'state', 'abandoned')
      redis.call('EXPIRE', key, keep)
      answer = 1
    end
  end
  states[#states + 1] = answer
end
return states
"""
"""KEYS: for each attempt its claim (of Celery's retry 0: it ends in that digit) and its result. ARGV: keep (s), retries
that are followed. Returns 1 for each attempt that cannot run any more, else 0.

Celery's own retries of an attempt have claims of their own. A claim that is done means that the attempt ended, unless
the stored result says RETRY: then the next retry is what is abandoned. What has a final result is never abandoned,
even if the worker died before it could end its claim. An unreadable result counts as final: it is somebody's."""

_log = structlog.get_logger(__name__)


class RedisResultBackend:
    """The port ``ResultBackend`` on Redis (``redis://`` and ``rediss://``).

    Args:
        url: As Celery reads it.
        key_prefix: The ``global_keyprefix`` of the workers' result backend, as effective (``shop_``).
        silence_seconds: See SILENCE_SECONDS.

    Raises RedisAddressError if the URL cannot be read.
    """

    def __init__(self, url: str, *, key_prefix: str = "", silence_seconds: float = SILENCE_SECONDS) -> None:
        self._url = url
        self._key_prefix = key_prefix
        self._silence_seconds = silence_seconds
        self._client: Redis = open_redis(url)
        self._channel = announce_channel(connection_options(url)["db"], key_prefix)
        self._abandon = self._client.register_script(ABANDON_SCRIPT)

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, TaskResult]:
        """See the port."""
        results: dict[str, TaskResult] = {}
        for ids in _chunks(task_ids):
            async with bounded(self._url, "read results", ResultBackendError):
                stored = await self._client.mget([self._result_key(task_id) for task_id in ids])
            results |= {
                task_id: decode_result(raw) for task_id, raw in zip(ids, stored, strict=True) if raw is not None
            }
        return results

    async def claims(self, task_ids: Sequence[str]) -> Mapping[str, Claim]:
        """See the port. Celery's own retries are followed: the claim is that of the last one that began."""
        claims: dict[str, Claim] = {}
        asked: Sequence[str] = task_ids
        for retries in range(MOST_RETRIES):
            found: dict[str, Claim] = {}
            for ids in _chunks(asked):
                found |= await self._claims_of(ids, retries)
            for task_id, claim in found.items():
                carried = claims[task_id].resumption if retries else None
                claims[task_id] = claim if claim.state == CLAIM_DONE else replace(claim, resumption=carried)
            asked = [task_id for task_id, claim in found.items() if claim.state == CLAIM_DONE]
            if not asked:
                break
        return claims

    async def _claims_of(self, task_ids: Sequence[str], retries: int) -> dict[str, Claim]:
        """Return the claims on one of Celery's retries."""
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        for task_id in task_ids:
            pipe.hmget(claim_key(task_id, retries, self._key_prefix), CLAIM_FIELDS)
        async with bounded(self._url, "read claims", ResultBackendError):
            (seconds, microseconds), *records = await pipe.execute()
        now_ms = seconds * 1000 + microseconds // 1000
        return {
            task_id: decode_claim(record, now_ms, retries)
            for task_id, record in zip(task_ids, records, strict=True)
            if record[0] is not None
        }

    async def abandon(self, task_ids: Sequence[str]) -> frozenset[str]:
        """See the port."""
        abandoned: set[str] = set()
        for ids in _chunks(task_ids):
            keys: list[str] = []
            for task_id in ids:
                keys += [claim_key(task_id, 0, self._key_prefix), self._result_key(task_id)]
            async with bounded(self._url, "abandon attempts", ResultBackendError):
                answers = await self._abandon(keys=keys, args=[CLAIM_KEEP_SECONDS, MOST_RETRIES])
            abandoned |= {task_id for task_id, answer in zip(ids, answers, strict=True) if answer}
        return frozenset(abandoned)

    async def check(self) -> None:
        """See the port."""
        async with bounded(self._url, "ask the result backend", ResultBackendError):
            await self._client.execute_command("PING")  # type: ignore[no-untyped-call]

    async def announcements(self) -> AsyncGenerator[tuple[Announcement, ...], None]:
        """See the port."""
        pause, failures = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                async with self._subscribed() as subscription:
                    pause, failures = FIRST_PAUSE_SECONDS, 0
                    yield ()
                    async for batch in self._heard(subscription):
                        yield batch
            except (RedisError, OSError, TimeoutError) as error:
                failures += 1
                if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, …: a server may be away for hours
                    message, _ = explain(self._url, "listen to announcements", error)
                    _log.warning("announcements interrupted", error=message, failures=failures)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    @contextlib.asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[PubSub]:
        """Subscribe and wait for the server's confirmation: from then on nothing is missed."""
        subscription = self._client.pubsub()
        try:
            async with asyncio.timeout(self._silence_seconds):
                await subscription.subscribe(self._channel)
                while (message := await subscription.get_message(timeout=None)) is None or message[
                    "type"
                ] != "subscribe":
                    pass
            yield subscription
        finally:
            with contextlib.suppress(RedisError, OSError):
                await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _heard(self, subscription: PubSub) -> AsyncIterator[tuple[Announcement, ...]]:
        """Yield what is heard; an empty batch where redis-py has connected and subscribed again by itself."""
        asked = False
        while True:
            message = await subscription.get_message(timeout=self._silence_seconds)
            if message is None:
                if asked:
                    raise TimeoutError(f"no sign of life for {2 * self._silence_seconds:g} s")
                await subscription.ping()
                asked = True
                continue
            asked = False
            batch: list[Announcement] = []
            again = False
            while message is not None:
                again = message["type"] == "subscribe"
                batch += _announced(message)
                if again or len(batch) >= ANNOUNCEMENTS_AT_ONCE:
                    break
                message = await subscription.get_message(timeout=0)
            if batch:
                yield tuple(batch)
            if again:
                yield ()

    def _result_key(self, task_id: str) -> str:
        return f"{self._key_prefix}{RESULT_KEY_PREFIX}{task_id}"

    async def close(self) -> None:
        """See the port."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


def _chunks(task_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (task_ids[start : start + READ_AT_ONCE] for start in range(0, len(task_ids), READ_AT_ONCE))


def _announced(message: Mapping[str, Any]) -> list[Announcement]:
    """Read one pub/sub message; what is not ours, or malformed, is nothing: the sweep finds what it may have meant."""
    if message["type"] != "message":
        return []
    try:
        body = json.loads(message["data"])
    except (ValueError, RecursionError) as error:
        _log.warning("announcement not understood", error=str(error))
        return []
    entries = body if isinstance(body, list) else []
    return [found for found in map(Announcement.from_json, entries) if found is not None]


def decode_claim(record: Sequence[bytes | None], now_ms: int, retries: int = 0) -> Claim:
    """Read CLAIM_FIELDS as the guard writes them. ``retries`` is Celery's own count in the claim's key."""
    state, worker, until, starts, retry_at, retry_with, rejected = (
        value.decode(errors="replace") if value else "" for value in record
    )
    until_ms = int(until or 0)
    common: dict[str, Any] = {"worker": worker, "starts": int(starts or 0)}
    if state == CLAIM_DONE:
        note = RetryNote.from_text(retry_with)
        return Claim(
            state="done",
            seconds_since_lease=max(0, now_ms - until_ms) / 1000 if until_ms else 0.0,
            rejected=rejected,
            resumption=Resumption(retries + 1, note.queue, note.tries),
            retry_overdue_seconds=(now_ms - int(retry_at)) / 1000 if retry_at else None,
            **common,
        )
    if state == CLAIM_ABANDONED:
        return Claim(state="abandoned", **common)
    if state != CLAIM_RUNNING or until_ms == 0:
        return Claim(state="returned", **common)
    over = until_ms <= now_ms
    return Claim(
        state="running", lease_over=over, seconds_since_lease=(now_ms - until_ms) / 1000 if over else 0.0, **common
    )


_STATES = frozenset(get_args(ResultState))


def decode_result(raw: bytes) -> TaskResult:
    """Read a result record as Celery's JSON backends store it. Values stay JSON values.

    A record that is no JSON (another result serializer), or nested beyond all measure, is a FAILURE that says so. A
    state of the user's own making counts as STARTED: it is not the end.
    """
    try:
        meta = json.loads(raw)
        status = meta["status"]
        state: ResultState = status if status in _STATES else "STARTED"
    except (ValueError, TypeError, KeyError, RecursionError):
        message = "the stored result is not JSON: workers must use result_serializer=json"
        return TaskResult(state="FAILURE", size=len(raw), exception="ResultNotJson", message=message)
    result = meta.get("result")
    worker = str(meta.get("worker") or "")
    if state == "SUCCESS":
        return TaskResult(state=state, value=result, size=len(raw), worker=worker)
    if not isinstance(result, dict):
        return TaskResult(state=state, size=len(raw), message=_cut(result), worker=worker)
    if state == "STARTED":
        return TaskResult(state=state, size=len(raw), worker=str(result.get("hostname") or worker))
    message = _cut(result.get("exc_message"))
    return TaskResult(
        state=state, size=len(raw), exception=str(result.get("exc_type") or ""), message=message, worker=worker
    )


def _cut(message: Any) -> str:
    """Return what ``str(exception)`` was, from the arguments that Celery stores, short and without credentials."""
    if isinstance(message, list):
        message = message[0] if len(message) == 1 else tuple(message) or ""
    return "" if message is None else mask_url(str(message))[:MESSAGE_CHARACTERS]
