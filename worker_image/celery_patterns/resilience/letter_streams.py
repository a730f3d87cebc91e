"""Dead letters in Redis: a stream for each queue, bounded in number and age, which counts what it had to drop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from celery_patterns.resilience.letters import Letter
from celery_patterns.store import Script, Store
from celery_patterns.store.script import CLOCK

LONGEST: Final = 10_000
"""Letters that one queue keeps at most, about."""

RETENTION_SECONDS: Final = 30 * 86_400.0

ONCE_MS: Final = 3_600_000
"""How long a letter that was written is recognised when it is written again, after an answer that was lost."""

PAGE: Final = 100

KEEP: Final = Script(
    CLOCK
    + """
local seen = redis.call('GET', KEYS[3])
if seen then return seen end
local retention = tonumber(ARGV[2])
local before = redis.call('XLEN', KEYS[1])
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(fields))
redis.call('XTRIM', KEYS[1], 'MINID', '~', num(now - retention))
redis.call('PEXPIRE', KEYS[1], num(retention))
redis.call('HINCRBY', KEYS[2], ARGV[4] .. '|kept', 1)
local gone = before + 1 - redis.call('XLEN', KEYS[1])
if gone > 0 then redis.call('HINCRBY', KEYS[2], ARGV[4] .. '|dropped', gone) end
redis.call('HSET', KEYS[2], ARGV[4] .. '|last', num(now))
redis.call('PEXPIRE', KEYS[2], num(retention))
redis.call('SET', KEYS[3], id, 'PX', ARGV[3])
return id
""",
    "keep letter",
)
"""KEYS: stream, index of queues, this letter's token. ARGV: longest, retention (ms), ms that the token is remembered,
queue, (unused), then the fields. Returns the entry's id; the same for the same token."""

REMOVE: Final = Script(
    """
local gone = 0
for i = 1, #ARGV do gone = gone + redis.call('XDEL', KEYS[1], ARGV[i]) end
return gone
""",
    "remove letters",
)

PURGE: Final = Script(
    CLOCK
    + """
if ARGV[1] == '' then
  local gone = redis.call('XLEN', KEYS[1])
  redis.call('DEL', KEYS[1])
  return gone
end
return redis.call('XTRIM', KEYS[1], 'MINID', num(now - tonumber(ARGV[1])))
""",
    "purge letters",
)
"""KEYS: stream. ARGV: age (ms) from which letters go; '' for all. Returns how many went."""


class LetterStreams:
    """The dead letters of one application, in its store.

    Args:
        store: The state store.
        longest: How many letters a queue keeps, about; older ones go first, and are counted.
        retention_seconds: How long a letter is kept.

    Every method may raise ``StoreUnavailable``.
    """

    def __init__(self, store: Store, *, longest: int = LONGEST, retention_seconds: float = RETENTION_SECONDS) -> None:
        self._store = store
        self._longest = longest
        self._retention_ms = int(retention_seconds * 1000)
        self._index = store.key("dead", "|index")

    def keep(self, letter: Letter, token: str) -> str:
        """Keep a letter and return its id; with the same token it is kept once."""
        fields = [part for pair in letter.to_fields().items() for part in pair]
        keys = [self._stream(letter.queue), self._index, self._store.key("dead", f"|token:{token}")]
        arguments = [self._longest, self._retention_ms, ONCE_MS, letter.queue, "", *fields]
        answer: bytes = self._store.run(KEEP, keys, arguments)
        return answer.decode()

    def queues(self) -> dict[str, dict[str, int]]:
        """Return for each queue: ``waiting`` letters, and since its letters began ``kept`` and ``dropped`` ones."""
        index = self._store.call(self._store.client.hgetall, self._index)
        found: dict[str, dict[str, int]] = {}
        for name, number in index.items():
            queue, _, what = name.decode().rpartition("|")
            found.setdefault(queue, {"waiting": 0, "kept": 0, "dropped": 0})[what] = int(number)
        for queue, counts in found.items():
            counts.pop("last", None)
            counts["waiting"] = int(self._store.call(self._store.client.xlen, self._stream(queue)))
        return found

    def scan(self, queue: str, *, newest_first: bool = True) -> Iterator[Letter]:
        """Go through a queue's letters, page by page."""
        client, key, edge = self._store.client, self._stream(queue), None
        while True:
            if newest_first:
                page = self._store.call(client.xrevrange, key, max=f"({edge}" if edge else "+", count=PAGE)
            else:
                page = self._store.call(client.xrange, key, min=f"({edge}" if edge else "-", count=PAGE)
            for entry, fields in page:
                yield Letter.from_fields(entry.decode(), fields)
            if len(page) < PAGE:
                return
            edge = page[-1][0].decode()

    def get(self, queue: str, letter_id: str) -> Letter | None:
        """Return one letter; None if there is none of this id."""
        found = self._store.call(self._store.client.xrange, self._stream(queue), letter_id, letter_id)
        return Letter.from_fields(found[0][0].decode(), found[0][1]) if found else None

    def remove(self, queue: str, letter_ids: list[str]) -> int:
        """Remove letters; returns how many there were."""
        return int(self._store.run(REMOVE, [self._stream(queue)], letter_ids)) if letter_ids else 0

    def purge(self, queue: str, older_seconds: float | None = None) -> int:
        """Remove the letters of a queue, or those older than so long; returns how many."""
        age = "" if older_seconds is None else int(older_seconds * 1000)
        return int(self._store.run(PURGE, [self._stream(queue)], [age]))

    def close(self) -> None:
        """Nothing to close: the connection is the store's."""

    def _stream(self, queue: str) -> str:
        return self._store.key("dead", queue)
