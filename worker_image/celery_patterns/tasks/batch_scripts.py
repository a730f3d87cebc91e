"""The batches' Lua. Four keys hold one batch key's calls, each change of them is one step by the server's clock.

``items``: a hash of id and call. ``waiting``: a sorted set of ids by when they came (0: taken back). ``taken``: a hash
of id and the flush that works it off. ``state``: a hash of ``bytes`` that wait, when a flush is ``promised`` or
``urgent``, and ``tries:<id>`` (begun and not ended, or ended and to come again) and ``alone:<id>``.
"""

from __future__ import annotations

from typing import Final

from celery_patterns.store import Script
from celery_patterns.store.leases import ALIVE
from celery_patterns.store.script import CLOCK

ADD: Final = Script(
    CLOCK
    + """
local new = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if new == 1 then
  redis.call('ZADD', KEYS[2], now_us, ARGV[1])
  redis.call('HINCRBY', KEYS[4], 'bytes', #ARGV[2])
end
local waiting, bytes = redis.call('ZCARD', KEYS[2]), tonumber(redis.call('HGET', KEYS[4], 'bytes') or '0')
local verdict = 0
local again = new == 0
if waiting >= tonumber(ARGV[3]) or bytes >= tonumber(ARGV[4]) then
  if again or tonumber(redis.call('HGET', KEYS[4], 'urgent') or '0') <= now then
    redis.call('HSET', KEYS[4], 'urgent', num(now + 1000))
    verdict = 2
  end
elseif again or tonumber(redis.call('HGET', KEYS[4], 'promised') or '0') <= now then
  redis.call('HSET', KEYS[4], 'promised', num(now + tonumber(ARGV[6])))
  verdict = 1
end
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return verdict
""",
    "batch:add",
)
"""KEYS: items, waiting, taken, state. ARGV: id, item, items for a flush, bytes for a flush, keep (ms), how long a flush
that was promised is waited for (ms). Returns 2 flush now, 1 promise a flush, 0 one is promised.
A call that comes again is a sign that its worker died, maybe before it sent what it had promised."""

FORGET_PROMISE: Final = Script(
    "return redis.call('HDEL', KEYS[4], 'promised', 'urgent')",
    "batch:forget promise",
)
"""KEYS as above: the flush could not be sent, and the next call is to ask for it."""

TAKE: Final = Script(
    CLOCK
    + "local TASKS, HOLDER = ARGV[1], ARGV[2]\n"
    + ALIVE
    + """
local reclaimed = 0
local taken = redis.call('HGETALL', KEYS[3])
for i = 1, #taken, 2 do
  if not alive(taken[i + 1]) then
    redis.call('HDEL', KEYS[3], taken[i])
    if redis.call('HEXISTS', KEYS[1], taken[i]) == 1 then
      redis.call('ZADD', KEYS[2], 0, taken[i])
      redis.call('HINCRBY', KEYS[4], 'bytes', #redis.call('HGET', KEYS[1], taken[i]))
      reclaimed = reclaimed + 1
    end
  end
end
if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) + redis.call('HLEN', KEYS[3]) then
  for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
    if redis.call('HEXISTS', KEYS[3], id) == 0 and redis.call('ZADD', KEYS[2], 'NX', 0, id) == 1 then
      redis.call('HINCRBY', KEYS[4], 'bytes', #redis.call('HGET', KEYS[1], id))
    end
  end
end
local batch, bytes = {}, 0
repeat
  local ids = redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[3]) - 1)
  for _, id in ipairs(ids) do
    local item = redis.call('HGET', KEYS[1], id)
    if not item then
      redis.call('ZREM', KEYS[2], id)
    else
      local alone = redis.call('HEXISTS', KEYS[4], 'alone:' .. id) == 1
      if #batch > 0 and (alone or bytes + #item > tonumber(ARGV[4])) then break end
      bytes = bytes + #item
      redis.call('ZREM', KEYS[2], id)
      redis.call('HSET', KEYS[3], id, HOLDER)
      redis.call('HINCRBY', KEYS[4], 'bytes', -#item)
      batch[#batch + 1] = {id, item, redis.call('HINCRBY', KEYS[4], 'tries:' .. id, 1)}
      if alone then break end
    end
  end
until #batch > 0 or redis.call('ZCARD', KEYS[2]) == 0
redis.call('HDEL', KEYS[4], 'promised', 'urgent')
if redis.call('ZCARD', KEYS[2]) == 0 then redis.call('HDEL', KEYS[4], 'bytes') end
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return {redis.call('ZCARD', KEYS[2]), reclaimed, batch}
""",
    "batch:take",
)
"""KEYS as above. ARGV: beginning of task hashes, holder, most items, most bytes, keep (ms).
Returns {items that still wait, items taken back from the dead, {id, item, tries} of each}.
A server short of memory may have dropped one of the keys: calls that neither wait nor are taken wait again, and the
bytes are counted anew whenever nothing waits."""

SETTLE: Final = Script(
    CLOCK
    + """
local lost = 0
for i = 3, #ARGV, 2 do
  local id, verdict = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[3], id) ~= ARGV[1] then
    lost = lost + 1
  else
    redis.call('HDEL', KEYS[3], id)
    if verdict == 'done' then
      redis.call('HDEL', KEYS[1], id)
      redis.call('HDEL', KEYS[4], 'tries:' .. id, 'alone:' .. id)
    elseif redis.call('HEXISTS', KEYS[1], id) == 1 then
      if verdict == 'alone' then redis.call('HSET', KEYS[4], 'alone:' .. id, '1') end
      if verdict ~= 'back' then redis.call('HINCRBY', KEYS[4], 'tries:' .. id, 1) end
      redis.call('ZADD', KEYS[2], now_us, id)
      redis.call('HINCRBY', KEYS[4], 'bytes', #redis.call('HGET', KEYS[1], id))
    end
  end
end
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return {lost, redis.call('ZCARD', KEYS[2])}
""",
    "batch:settle",
)
"""KEYS as above. ARGV: holder, keep (ms), then id and done | again | alone | back of each.
Returns {items that were not ours any more, items that wait}. ``back``: it comes again, and this was no try."""

HOLD: Final = Script(
    """
local ours = {}
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[3], ARGV[i]) == ARGV[1] then
    ours[#ours + 1] = ARGV[i]
    local tries = redis.call('HINCRBY', KEYS[4], 'tries:' .. ARGV[i], -1)
    if tries < 0 then redis.call('HSET', KEYS[4], 'tries:' .. ARGV[i], '0') end
  end
end
return ours
""",
    "batch:hold",
)
"""KEYS as above. ARGV: holder, ids. Returns the ids that it still holds, whose batch has ended: a try that did not end
counts until then, and one that did counts when it is settled."""
