"""The Lua of a task's policies, composed: one script before the run and one after it, each a single round trip.

Before: the execution takes the task's hash, then each policy is asked in order; the first that does not admit ends it,
and what the earlier ones took is given back in the same script. So there is no moment in which half of it holds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from celery_patterns.store import Script, Store
from celery_patterns.store.leases import ALIVE, KEEP_MS
from celery_patterns.store.script import CLOCK
from celery_patterns.tasks.policy import Call, Fragment, Outcome, Step

_HEAD = """
local TASK, TASKS, TOKEN, HOLDER = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local LEASE, KEEP, OUTCOME = tonumber(ARGV[4]), ARGV[5], ARGV[6]
"""

_BEGIN = CLOCK + _HEAD + ALIVE

_SLICES = """
local nextkey, nextarg = 2, FIRST
local function part()
  local nk, na = tonumber(ARGV[nextarg]), tonumber(ARGV[nextarg + 1])
  local K, A = {}, {}
  for i = 1, nk do K[i] = KEYS[nextkey + i - 1] end
  for i = 1, na do A[i] = ARGV[nextarg + 1 + i] end
  nextkey, nextarg = nextkey + nk, nextarg + 2 + na
  return K, A
end
"""

_TAKE = """
local record = redis.call('HMGET', TASK, 'token', 'until', 'deliveries', 'checkpoint', 'outcome')
if record[1] and record[1] ~= TOKEN then
  local left = tonumber(record[2] or '0') - now
  if left > 0 then return {-1, left, now} end
end
local ended, restored = record[5], record[4]
local counted = record[1] == TOKEN and record[2] ~= '0'
local deliveries = ended and 0 or tonumber(record[3] or '0')
if not counted then deliveries = deliveries + 1 end
redis.call('HSET', TASK, 'token', TOKEN, 'until', num(now + LEASE), 'worker', ARGV[7])
redis.call('PEXPIRE', TASK, KEEP)
"""
"""``counted``: this delivery asks again, since its first answer was lost on the way, and is counted already."""

_ASK = """
local answer, parts = {0, deliveries, now, restored}, {}
for i, step in ipairs(steps) do
  local K, A = part()
  parts[i] = {K, A}
  local reply = step[1](K, A)
  answer[#answer + 1] = reply
  if reply[1] ~= 0 then
    for j = i - 1, 1, -1 do
      if steps[j][2] then steps[j][2](parts[j][1], parts[j][2]) end
    end
    redis.call('HSET', TASK, 'until', '0')
    if counted then redis.call('HINCRBY', TASK, 'deliveries', -1) end
    local kept = redis.call('HMGET', TASK, 'deliveries', 'seen', 'cancel', 'checkpoint')
    if tonumber(kept[1] or '0') <= 0 and not kept[2] and not kept[3] and not kept[4] then
      redis.call('DEL', TASK)
    elseif ended then
      redis.call('PEXPIRE', TASK, ARGV[8])
    end
    answer[1] = i
    return answer
  end
end
if ended then redis.call('HDEL', TASK, 'done', 'total', 'note', 'at', 'seen', 'outcome') end
redis.call('HSET', TASK, 'deliveries', deliveries)
return answer
"""
"""A wish to stop and a checkpoint outlive a delivery that a policy sends away. What runs after its end begins anew."""

_SETTLE = """
local mine = redis.call('HGET', TASK, 'token') == TOKEN
local answer = {mine and 1 or 0}
for i, step in ipairs(steps) do
  local K, A = part()
  answer[i + 1] = step(K, A) or 0
end
if mine then
  local ended = OUTCOME ~= 'retry' and OUTCOME ~= 'deferred'
  if ended and redis.call('HEXISTS', TASK, 'seen') == 0 then
    redis.call('DEL', TASK)
  else
    redis.call('HSET', TASK, 'until', '0')
    if ended then
      redis.call('HDEL', TASK, 'checkpoint', 'cancel')
      redis.call('HSET', TASK, 'outcome', OUTCOME)
      redis.call('PEXPIRE', TASK, ARGV[8])
    else
      redis.call('PEXPIRE', TASK, KEEP)
    end
  end
end
return answer
"""

_FIRST_ARGUMENT = 9

SHOW_MS = 86_400_000
"""How long progress can be read after the task has ended: as long as Celery keeps results by default."""


class Taken(enum.Enum):
    """Whether an admission's script let the task run."""

    ADMITTED = "admitted"
    RUNNING = "running"
    """Another delivery of the same task runs, and its lease lasts."""
    STOPPED = "stopped"
    """A policy did not admit."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What an admission's script answered."""

    taken: Taken
    now: float
    """The server's time, in seconds since the epoch."""
    replies: tuple[list[Any], ...] = ()
    """Of the policies asked, in order; the last is the one that stopped, if one did."""
    deliveries: int = 1
    checkpoint: bytes | None = None
    left: float = 0.0
    """Seconds that the other delivery's lease lasts."""


@lru_cache(maxsize=1024)
def admission_script(fragments: tuple[Fragment, ...]) -> Script:
    """Return the script that asks these policies."""
    steps = ",\n".join(
        f"{{function(K, A)\n{f.admit}\nend, " + (f"function(K, A)\n{f.undo}\nend}}" if f.undo else "false}")
        for f in fragments
    )
    slices = _SLICES.replace("FIRST", str(_FIRST_ARGUMENT))
    source = _BEGIN + _TAKE + f"local steps = {{\n{steps}\n}}\n" + slices + _ASK
    return Script(source, "admit:" + "+".join(f.name for f in fragments))


@lru_cache(maxsize=1024)
def settlement_script(fragments: tuple[Fragment, ...]) -> Script:
    """Return the script that ends these policies' part in an execution."""
    steps = ",\n".join(f"function(K, A)\n{f.settle}\nend" for f in fragments)
    slices = _SLICES.replace("FIRST", str(_FIRST_ARGUMENT))
    source = _BEGIN + f"local steps = {{\n{steps}\n}}\n" + slices + _SETTLE
    return Script(source, "settle:" + "+".join(f.name for f in fragments))


def admit(store: Store, call: Call, steps: Sequence[Step], lease_seconds: float) -> Admission:
    """Take the task for this execution and ask its policies, in one round trip.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    script = admission_script(tuple(step.fragment for step in steps))
    keys, arguments = _flat(store, call, steps, lease_seconds, "")
    answer = store.run(script, keys, arguments)
    if answer[0] < 0:
        return Admission(Taken.RUNNING, now=answer[2] / 1000, left=answer[1] / 1000)
    return Admission(
        Taken.STOPPED if answer[0] else Taken.ADMITTED,
        now=answer[2] / 1000,
        replies=tuple(answer[4:]),
        deliveries=int(answer[1]),
        checkpoint=answer[3],
    )


def settle(store: Store, call: Call, steps: Sequence[Step], outcome: Outcome) -> tuple[bool, tuple[Any, ...]]:
    """Settle an execution, in one round trip; returns whether it still held the task, and the policies' replies.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    script = settlement_script(tuple(step.fragment for step in steps))
    keys, arguments = _flat(store, call, steps, 0, outcome.value)
    answer = store.run(script, keys, arguments)
    return bool(answer[0]), tuple(answer[1:])


def _flat(
    store: Store, call: Call, steps: Sequence[Step], lease_seconds: float, outcome: str
) -> tuple[list[str], list[Any]]:
    keys = [store.key("task", call.id)]
    lease = int(lease_seconds * 1000)
    tasks = store.key("task", "")
    arguments: list[Any] = [tasks, call.token, call.holder, lease, KEEP_MS, outcome, call.worker, SHOW_MS]
    for step in steps:
        keys += step.keys
        arguments += (len(step.keys), len(step.arguments), *step.arguments)
    return keys, arguments
