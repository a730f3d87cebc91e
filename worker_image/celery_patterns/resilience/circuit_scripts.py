"""The circuit's Lua: one hash for each circuit, changed in one step, by the server's clock.

Fields: ``state`` (absent: closed), ``gen`` (grows with every change of state), ``until`` (when an open circuit may be
tried), ``forced``, ``reason``, ``since``; in half open ``trial`` (who tries), ``trial_until``, ``passed``; in closed
one field for each bucket of the window, ``b<slot>`` = ``epoch,calls,failures,slow``, and their ``width`` (ms).
"""

from __future__ import annotations

from typing import Final

from celery_patterns.resilience.chunks import standalone

_TELL: Final = """
local function tell(before, after, reason)
  redis.pcall('PUBLISH', K[1] .. ':changes', before .. ' ' .. after .. ' ' .. reason)
end
"""
"""Tells whoever listens; a user without the right to publish is no reason to fail."""

ALLOW_CHUNK: Final = (
    _TELL
    + """
local c = redis.call('HMGET', K[1], 'state', 'gen', 'until', 'forced', 'trial', 'trial_until')
local gen = tonumber(c[2] or '0')
if not c[1] or c[1] == 'closed' then return {0, gen, 0, 0} end
local open_ms, trial_ms, keep = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
local changed = 0
if c[1] == 'open' then
  local ends = tonumber(c[3])
  if not c[4] and ends - now > open_ms then
    ends = now + open_ms
    redis.call('HSET', K[1], 'until', num(ends))
  end
  if ends > now then return {1, gen, ends - now, 0} end
  gen, changed = gen + 1, 1
  redis.call('HSET', K[1], 'state', 'half_open', 'gen', num(gen), 'since', num(now), 'passed', '0')
  redis.call('HDEL', K[1], 'until', 'forced')
  tell('open', 'half_open', 'its time is over: one call tries')
elseif c[5] and c[5] ~= HOLDER then
  local left = tonumber(c[6]) - now
  if left > trial_ms then left = 0 end
  local tries = left > 0
  if of_task(c[5]) then tries = alive(c[5]) end
  if tries then return {1, gen, math.max(100, math.min(left, open_ms)), 0} end
end
redis.call('HSET', K[1], 'trial', HOLDER, 'trial_until', num(now + trial_ms))
redis.call('PEXPIRE', K[1], keep)
return {0, gen, 0, 1 + changed}
"""
)
"""K: the circuit. A: open (ms), trial's lease (ms), keep (ms).
Returns {0 allowed or 1 not, generation, ms to wait, 0 no trial | 1 trial | 2 trial that turned it half open}."""

GIVE_BACK_CHUNK: Final = """
if redis.call('HGET', K[1], 'trial') == HOLDER then redis.call('HDEL', K[1], 'trial', 'trial_until') end
"""
"""K: the circuit. A trial that was taken and not begun is free for the next."""

RECORD_CHUNK: Final = (
    _TELL
    + """
local gen, failed, slow = A[1], tonumber(A[2]), tonumber(A[3])
local width, buckets, minimum = tonumber(A[4]), tonumber(A[5]), tonumber(A[6])
local failure_rate, slow_rate, needed = tonumber(A[7]), tonumber(A[8]), tonumber(A[9])
local open_ms, keep = tonumber(A[10]), tonumber(A[11])
local c = redis.call('HMGET', K[1], 'state', 'gen', 'trial', 'passed')
local state, current = c[1] or 'closed', tonumber(c[2] or '0')
local function turn(to, reason)
  redis.call('DEL', K[1])
  redis.call('HSET', K[1], 'state', to, 'gen', num(current + 1), 'since', num(now), 'reason', reason)
  if to == 'open' then redis.call('HSET', K[1], 'until', num(now + open_ms)) end
  redis.call('PEXPIRE', K[1], keep)
  tell(state, to, reason)
end
if state == 'half_open' then
  if c[3] ~= HOLDER then return {0, ''} end
  if failed == 2 then
    redis.call('HDEL', K[1], 'trial', 'trial_until')
    return {0, ''}
  end
  if failed == 1 or (slow == 1 and slow_rate <= 1) then
    local reason = failed == 1 and 'the trial failed' or 'the trial was slow'
    turn('open', reason)
    return {2, reason, state}
  end
  local passed = tonumber(c[4] or '0') + 1
  if passed >= needed then
    turn('closed', num(passed) .. ' trial(s) passed')
    return {1, num(passed) .. ' trial(s) passed', state}
  end
  redis.call('HDEL', K[1], 'trial', 'trial_until')
  redis.call('HSET', K[1], 'passed', num(passed))
  redis.call('PEXPIRE', K[1], keep)
  return {0, ''}
end
if state ~= 'closed' or failed == 2 or (gen ~= '' and tonumber(gen) ~= current) then return {0, ''} end
local epoch = math.floor(now / width)
local slot = 'b' .. num(epoch % buckets)
local calls, failures, slows, own = 0, 0, 0, {0, 0, 0}
local fields = redis.call('HGETALL', K[1])
for i = 1, #fields, 2 do
  local at, n, f, s = string.match(fields[i + 1], '^(%d+),(%d+),(%d+),(%d+)$')
  if at and string.sub(fields[i], 1, 1) == 'b' then
    at = tonumber(at)
    if at == epoch then own = {tonumber(n), tonumber(f), tonumber(s)} end
    if at > epoch - buckets and at <= epoch then
      calls, failures, slows = calls + n, failures + f, slows + s
    end
  end
end
calls, failures, slows = calls + 1, failures + failed, slows + slow
if calls >= minimum then
  local reason
  if failures > 0 and failures >= failure_rate * calls then
    reason = num(failures) .. ' of ' .. num(calls) .. ' calls failed'
  elseif slows > 0 and slows >= slow_rate * calls then
    reason = num(slows) .. ' of ' .. num(calls) .. ' calls were slow'
  end
  if reason then
    turn('open', reason)
    return {2, reason, state}
  end
end
redis.call('HSET', K[1], 'width', num(width), slot,
           num(epoch) .. ',' .. num(own[1] + 1) .. ',' .. num(own[2] + failed) .. ',' .. num(own[3] + slow))
redis.call('PEXPIRE', K[1], keep)
return {0, ''}
"""
)
"""K: the circuit. A: generation ('' if unknown), failed (0, 1, or 2: no word about the dependency), slow (0, 1),
bucket (ms), buckets, minimum calls, failure rate, slow rate (above 1: never), trials needed, open (ms), keep (ms).
Returns {0 no change | 1 closed | 2 opened, reason, state before a change}."""

FORCE_CHUNK: Final = (
    _TELL
    + """
local before = redis.call('HMGET', K[1], 'state', 'gen')
local ttl = tonumber(A[2])
redis.call('DEL', K[1])
redis.call('HSET', K[1], 'gen', num(tonumber(before[2] or '0') + 1), 'since', num(now), 'reason', A[4])
if A[1] == 'open' then
  redis.call('HSET', K[1], 'state', 'open', 'forced', '1', 'until', num(now + ttl))
else
  redis.call('HSET', K[1], 'state', 'closed')
end
redis.call('PEXPIRE', K[1], ttl + tonumber(A[3]))
tell(before[1] or 'closed', A[1], A[4])
return before[1] or 'closed'
"""
)
"""K: the circuit. A: open | closed, ms to stay open, keep (ms), reason. Returns the state before."""

LOOK_CHUNK: Final = """
local fields = redis.call('HGETALL', K[1])
local c, calls, failures, slows = {}, 0, 0, 0
for i = 1, #fields, 2 do c[fields[i]] = fields[i + 1] end
local epoch, buckets = math.floor(now / tonumber(c['width'] or '1')), tonumber(A[1])
for name, value in pairs(c) do
  local at, n, f, s = string.match(value, '^(%d+),(%d+),(%d+),(%d+)$')
  if at and string.sub(name, 1, 1) == 'b' and tonumber(at) > epoch - buckets and tonumber(at) <= epoch then
    calls, failures, slows = calls + n, failures + f, slows + s
  end
end
local left = math.max(0, tonumber(c['until'] or '0') - now)
local since = c['since'] and math.max(0, now - tonumber(c['since'])) or -1
return {c['state'] or 'closed', tonumber(c['gen'] or '0'), calls, failures, slows, left, since,
        c['forced'] and 1 or 0, c['reason'] or '', c['trial'] or ''}
"""
"""K: the circuit. A: buckets. Returns {state, generation, calls, failures, slow, ms left open, ms in this
state (-1: unknown), forced, reason, who tries}."""

ALLOW: Final = standalone(ALLOW_CHUNK, "circuit allow")
RECORD: Final = standalone(RECORD_CHUNK, "circuit record")
FORCE: Final = standalone(FORCE_CHUNK, "circuit force")
LOOK: Final = standalone(LOOK_CHUNK, "circuit look")
