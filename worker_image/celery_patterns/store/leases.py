"""Who holds something: an execution of a task, for as long as its worker's main process renews its lease.

An execution is named ``<task id>|<token>``, the token being new for each delivery. The hash ``task:<task id>`` holds
the token of the execution that runs and until when its lease lasts; locks and claims hold only the execution's name.
So one renewal keeps everything that a task holds, and a task that is lost loses all of it together.
"""

from __future__ import annotations

from celery_patterns.store.script import CLOCK, Script

KEEP_MS = 7 * 86_400_000
"""How long the record of a task that was lost, or that waits to come again, is remembered."""

ALIVE = """
local function alive(holder)
  if not holder then return false end
  local id, token = string.match(holder, '^(.*)|([^|]*)$')
  if not id then return false end
  local record = redis.call('HMGET', TASKS .. id, 'token', 'until')
  return record[1] == token and tonumber(record[2] or '0') > now
end
local function of_task(holder) return string.find(holder, '|', 1, true) ~= nil end
"""
"""``alive(holder)``: an execution whose lease lasts; ``of_task(holder)``: an execution at all. Needs TASKS, the
beginning of the keys of task hashes. Every key of one prefix is in one slot, so a name made here is as good as one that
was passed."""

FENCES = ("fence", "last")
"""Kind and name of the key of the last fence."""

NEXT_FENCE = """
local function next_fence(key)
  local fence = math.max(now_us, tonumber(redis.call('GET', key) or '0') + 1)
  redis.call('SET', key, num(fence), 'PX', 604800000)
  return fence
end
"""
"""``next_fence(key)``: microseconds since the epoch, and more than any before, though the clock be set back (a replica
with another clock takes over). One key serves a whole prefix, and a week without a holder is longer than any step."""

RENEW = Script(
    CLOCK
    + """
local expiry, keep, renewed = num(now + tonumber(ARGV[1])), ARGV[2], {}
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'token', 'until')
  if record[1] == ARGV[i + 2] and record[2] ~= '0' then
    redis.call('HSET', key, 'until', expiry)
    redis.call('PEXPIRE', key, keep)
    renewed[i] = 1
  else
    renewed[i] = 0
  end
end
return renewed
""",
    "renew",
)
"""KEYS: task hashes. ARGV: lease (ms), keep (ms), the token of each. Returns 1 where the execution still holds it."""

RELEASE = Script(
    """
for i, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'token') == ARGV[i + 1] then
    redis.call('HSET', key, 'until', '0')
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
return 1
""",
    "release",
)
"""KEYS: task hashes. ARGV: keep (ms), the token of each: what a lost process held is free at once."""
