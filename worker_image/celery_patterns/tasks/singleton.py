"""Singletons: of all calls with one key, at most one waits, runs, or either.

The lock names the execution that has it, and lasts while that one's lease does: the worker's main process renews it,
gives it back when a child is killed, and lets it run out when the whole pod is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from typing_extensions import override

from celery_patterns.store import Script, StoreError, names
from celery_patterns.store.leases import ALIVE, FENCES, KEEP_MS, NEXT_FENCE
from celery_patterns.store.script import CLOCK
from celery_patterns.tasks import keys, options
from celery_patterns.tasks.errors import DuplicateCall
from celery_patterns.tasks.policy import (
    Admit,
    Call,
    Decision,
    Defer,
    Drop,
    Existing,
    Fragment,
    Outcome,
    Policy,
    PolicyError,
    Publication,
    Refuse,
    Step,
    Withhold,
)

logger = logging.getLogger(__name__)

WAIT_SECONDS = (0.5, 15.0)
"""A call that waits its turn asks again after the first, then doubles up to the second."""

FRAGMENT = Fragment(
    name="singleton",
    admit=NEXT_FENCE
    + """
local locks = A[1] == '1'
local waiting = redis.call('GET', K[2])
if locks then
  local lock = redis.call('HMGET', K[1], 'holder', 'fence')
  if lock[1] and lock[1] ~= HOLDER and alive(lock[1]) then
    if A[2] == '1' and (not waiting or waiting == A[3]) then
      redis.call('SET', K[2], A[3], 'PX', A[4])
      return {2, lock[1]}
    end
    return {1, lock[1]}
  end
  local fence = lock[1] == HOLDER and tonumber(lock[2]) or next_fence(K[3])
  redis.call('HSET', K[1], 'holder', HOLDER, 'fence', num(fence))
  redis.call('PEXPIRE', K[1], A[5])
  if waiting == A[3] then redis.call('DEL', K[2]) end
  return {0, num(fence)}
end
if waiting == A[3] then redis.call('DEL', K[2]) end
return {0}
""",
    undo="""
if redis.call('HGET', K[1], 'holder') == HOLDER then redis.call('DEL', K[1]) end
""",
    settle="""
if redis.call('HGET', K[1], 'holder') == HOLDER then redis.call('DEL', K[1]) end
""",
)
"""K: lock, mark of the one that waits, fences. A: 1 if running is locked, 1 if one may wait, task id, ms to wait at
most, ms to keep the lock's record. Returns {0, fence}, {1, holder} busy, {2, holder} busy, and this one waits."""

QUEUE = Script(
    CLOCK
    + "local TASKS = ARGV[1]\n"
    + ALIVE
    + """
local waiting = redis.call('GET', KEYS[2])
if waiting and waiting ~= ARGV[2] then return waiting end
if ARGV[4] == '1' then
  local holder = redis.call('HGET', KEYS[1], 'holder')
  if alive(holder) then return string.match(holder, '^(.*)|') end
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return false
""",
    "singleton:queue",
)
"""At publish. KEYS: lock, mark. ARGV: beginning of task hashes, task id, ms to wait at most, 1 if one that runs counts.
Returns the id of the task that waits or runs already; nothing if this one may go."""

REQUEUE = Script(
    """
local waiting = redis.call('GET', KEYS[1])
if not waiting or waiting == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
""",
    "singleton:requeue",
)
"""A call that comes again waits again, unless another does. KEYS: mark. ARGV: task id, ms to wait at most."""

UNQUEUE = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end", "singleton:unqueue")


@dataclass(frozen=True, slots=True)
class Singleton(Policy):
    """At most one call with a key waits (``queued``), runs (``running``), or waits or runs (``both``).

    Raises:
        PolicyError: If an option is wrong.
    """

    key: str | None = None
    """Template over the arguments, such as ``"{customer_id}"``; None: all arguments together."""
    scope: Literal["queued", "running", "both"] = "running"
    on_duplicate: Literal["drop", "return_existing", "raise", "coalesce"] = "drop"
    """What happens to a further call: it ends as REVOKED; its caller gets the first one's result handle (scopes queued
    and both); it fails with DuplicateCall (raised at the caller where the publisher sees it); or one further call waits
    until the first has ended, and those after it merge into that one."""
    lease: options.Duration | None = None
    """How long the lock may outlive a dead worker; None: as the store's settings say (30 s)."""
    queued_for: options.Duration = "15m"
    """How long a call that waits keeps others out: a message that is lost must not do so for ever."""

    name: ClassVar[str] = "singleton"
    order: ClassVar[int] = 30
    needs_store: ClassVar[bool] = True
    _queued_ms: int = field(init=False, repr=False, compare=False, default=0)
    _lease: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        options.choice("Singleton.scope", self.scope, ("queued", "running", "both"))
        choices = ("drop", "return_existing", "raise", "coalesce")
        options.choice("Singleton.on_duplicate", self.on_duplicate, choices)
        if self.on_duplicate == "return_existing" and self.scope == "running":
            raise PolicyError(
                "Singleton.on_duplicate: 'return_existing' is decided when a call is published, "
                "which scope 'running' does not look at: use scope 'both' or 'queued'"
            )
        queued = options.duration("Singleton.queued_for", self.queued_for, low=1)
        object.__setattr__(self, "_queued_ms", int(queued * 1000))
        if self.lease is not None:
            object.__setattr__(self, "_lease", options.duration("Singleton.lease", self.lease, low=0.3, high=3600))

    @property
    @override
    def lease_seconds(self) -> float | None:
        """The lease, in seconds."""
        return self._lease

    @override
    def bind(self, task: Any) -> None:
        """Check the key against the task's parameters."""
        keys.check_template("Singleton.key", self.key, task)

    def store_keys(self, task: Any, arguments: Any) -> tuple[str, str]:
        """Return the key of the lock, and that of the mark of the one that waits."""
        name = f"{names.quote(task.name)}:{keys.render(self.key, arguments)}"
        return task.patterns.key("singleton", name), task.patterns.key("singleton-queued", name)

    # ---- publish

    @override
    def publish(self, publication: Publication) -> Existing | Withhold | None:
        """Let one call wait.

        Raises:
            DuplicateCall: If there is one and the policy says that this is an error.
            StoreUnavailable: If the store does not answer.
        """
        # A chord's body would never come if one of its header's messages were not sent: the worker ends that one.
        if self.scope == "running":
            return None
        if publication.retrying:
            self._requeue(publication)
            return None
        if publication.options.get("chord"):
            return None
        other = self._queue(publication)
        if other is None:
            return None
        reason = f"task {other} with the same key waits or runs"
        if self.on_duplicate == "raise":
            raise DuplicateCall(f"{publication.name}: {reason}")
        # Nobody would ever end the id that a canvas waits for if its caller got another one's handle.
        withheld = self.on_duplicate == "drop" or publication.in_canvas
        return Withhold(reason) if withheld else Existing(other)

    def _queue(self, publication: Publication) -> str | None:
        task = publication.task
        counts_running = self.scope == "both" and self.on_duplicate != "coalesce"
        arguments = keys.bind_arguments(task, *publication.called_with)
        store = task.patterns.store
        locks = self.store_keys(task, arguments)
        other = store.run(QUEUE, locks, [store.key("task", ""), publication.id, self._queued_ms, int(counts_running)])
        return None if other is None else other.decode()

    def _requeue(self, publication: Publication) -> None:
        task = publication.task
        _, mark = self.store_keys(task, keys.bind_arguments(task, *publication.called_with))
        try:
            task.patterns.store.run(REQUEUE, [mark], [publication.id, self._queued_ms])
        except StoreError as error:
            # It must come again in any case; a duplicate meanwhile is found when it runs.
            logger.warning("%s[%s] comes again unmarked: %s", publication.name, publication.id, error)

    @override
    def unpublished(self, publication: Publication) -> None:
        """Let the next call wait instead."""
        task = publication.task
        arguments = keys.bind_arguments(task, *publication.called_with)
        _, mark = self.store_keys(task, arguments)
        task.patterns.store.run(UNQUEUE, [mark], [publication.id])

    # ---- run

    @override
    def admission(self, call: Call) -> Step:
        """Take the lock."""
        locks, waits = self.scope != "queued", self.on_duplicate == "coalesce"
        arguments = (int(locks), int(waits), call.id, self._queued_ms, KEEP_MS)
        fences = call.task.patterns.key(*FENCES)
        return Step(FRAGMENT, (*self.store_keys(call.task, call.arguments), fences), arguments)

    @override
    def admitted(self, call: Call, reply: list[Any]) -> Decision:
        """Run, or do what the policy says of duplicates."""
        if reply[0] == 0:
            return Admit(fence=int(reply[1]) if len(reply) > 1 else None)
        task_id = reply[1].decode().rpartition("|")[0]
        reason = f"task {task_id} with the same key runs"
        if reply[0] == 2:
            first, longest = WAIT_SECONDS
            return Defer(min(longest, first * 2 ** min(call.deferrals, 10)), reason)
        if self.on_duplicate == "raise":
            return Refuse(DuplicateCall(f"{call.name}: {reason}"))
        return Drop(reason)

    @override
    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step | None:
        """Give the lock back."""
        del outcome, result, seconds
        if self.scope == "queued":
            return None
        return Step(FRAGMENT, self.store_keys(call.task, call.arguments)[:1])
