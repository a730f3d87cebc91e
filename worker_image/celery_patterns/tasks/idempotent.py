"""Idempotency: of all calls with one key, one runs to its end within a time; the others get its result.

Claimed before the run, committed after it, both with the name of the execution: one whose lease was lost cannot commit
over the one that took its place. An execution that dies between its side effect and the commit runs again: pass
``context.fence`` to whatever can refuse an older number.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from celery.exceptions import SecurityError
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError
from typing_extensions import override

from celery_patterns.store import names
from celery_patterns.store.leases import FENCES, NEXT_FENCE
from celery_patterns.tasks import keys, options
from celery_patterns.tasks.errors import DuplicateCall, ResultRefused
from celery_patterns.tasks.policy import Admit, Call, Decision, Defer, Fragment, Outcome, Policy, Refuse, Skip, Step

_dumps: Any = serialization.dumps
_loads: Any = serialization.loads
_accepted: Any = serialization.prepare_accept_content

WAIT_SECONDS = (1.0, 30.0)
"""A call that waits for another asks again after the first, then doubles up to the second."""

RUNNING_MS = 7 * 86_400_000
"""How long the claim of an execution that never ended is remembered; whether it lives is told by its lease."""

DONE, RUNNING = 1, 2

FRAGMENT = Fragment(
    name="idempotent",
    admit=NEXT_FENCE
    + """
local record = redis.call('HMGET', K[1], 'state', 'holder', 'fence', 'result', 'id')
if record[1] == 'done' then return {1, record[4], record[5]} end
if record[1] and record[2] ~= HOLDER and alive(record[2]) then return {2, record[2]} end
local fence = record[1] and record[2] == HOLDER and tonumber(record[3]) or next_fence(K[2])
redis.call('HSET', K[1], 'state', 'running', 'holder', HOLDER, 'fence', num(fence))
redis.call('PEXPIRE', K[1], A[1])
return {0, num(fence)}
""",
    undo="""
if redis.call('HGET', K[1], 'holder') == HOLDER then redis.call('DEL', K[1]) end
""",
    settle="""
local record = redis.call('HMGET', K[1], 'state', 'holder')
if record[1] and record[2] ~= HOLDER then return 1 end
if OUTCOME == 'success' then
  redis.call('HSET', K[1], 'state', 'done', 'holder', HOLDER, 'result', A[2], 'id', A[3])
  redis.call('PEXPIRE', K[1], A[1])
elseif record[1] ~= 'done' then
  redis.call('DEL', K[1])
end
return 0
""",
)
"""Admit: K: claim, fences. A: ms to remember a claim; returns {0, fence}, {1, result, task id} if done, {2, holder} if
it runs. Settle: A: ttl (ms), result, task id; returns 1 if another execution has the claim by now."""


@dataclass(frozen=True, slots=True)
class Idempotent(Policy):
    """Calls with one key run once within ``ttl``.

    Raises:
        PolicyError: If an option is wrong.
    """

    key: str | None = None
    """Template over the arguments, such as ``"{order_id}"``; None: all arguments together."""
    ttl: options.Duration = "24h"
    """How long a call that succeeded is remembered, with its result."""
    result: Literal["replay", "ignore", "conflict"] = "replay"
    """What a later call ends with: the first one's result, None, or DuplicateCall as its failure. A redelivery of the
    same task always gets its own result."""
    in_flight: Literal["wait_retry", "reject"] = "wait_retry"
    """What a call does while another runs: come again later, or fail with DuplicateCall."""

    name: ClassVar[str] = "idempotent"
    order: ClassVar[int] = 20
    needs_store: ClassVar[bool] = True
    _ttl_ms: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ttl_ms", int(options.duration("Idempotent.ttl", self.ttl, low=1) * 1000))
        options.choice("Idempotent.result", self.result, ("replay", "ignore", "conflict"))
        options.choice("Idempotent.in_flight", self.in_flight, ("wait_retry", "reject"))

    @override
    def bind(self, task: Any) -> None:
        """Check the key against the task's parameters."""
        keys.check_template("Idempotent.key", self.key, task)

    def store_key(self, call: Call) -> str:
        """Return the key of the record of all calls like this one."""
        name = f"{names.quote(call.name)}:{keys.render(self.key, call.arguments)}"
        return str(call.task.patterns.key("idempotent", name))

    @override
    def admission(self, call: Call) -> Step:
        """Claim the key."""
        return Step(FRAGMENT, (self.store_key(call), call.task.patterns.key(*FENCES)), (RUNNING_MS,))

    @override
    def admitted(self, call: Call, reply: list[Any]) -> Decision:
        """Run, replay, or wait."""
        if reply[0] == DONE:
            return self._done(call, reply)
        if reply[0] == RUNNING:
            task_id = reply[1].decode().rpartition("|")[0]
            if self.in_flight == "reject":
                return Refuse(DuplicateCall(f"a call of {call.name} with this key runs as task {task_id}"))
            first, longest = WAIT_SECONDS
            return Defer(min(longest, first * 2 ** min(call.deferrals, 10)), f"the same call runs as task {task_id}")
        return Admit(fence=int(reply[1]))

    def _done(self, call: Call, reply: list[Any]) -> Decision:
        task_id = reply[2].decode()
        if task_id != call.id and self.result == "conflict":
            return Refuse(DuplicateCall(f"a call of {call.name} with this key has been done by task {task_id}"))
        if task_id != call.id and self.result == "ignore":
            return Skip(None, f"it was done by task {task_id}")
        try:
            result = _decode(reply[1], call.task)
        except (ContentDisallowed, DecodeError, SecurityError, ValueError) as error:
            return Refuse(ResultRefused(f"{call.name} was done by task {task_id}, but its result: {error}"))
        return Skip(result, f"it was done by task {task_id}")

    @override
    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step:
        """Commit a success; give the claim back otherwise.

        Raises:
            EncodeError: If the result cannot be stored.
        """
        del seconds
        encoded = _encode(result, call.task) if outcome is Outcome.SUCCESS else b""
        return Step(FRAGMENT, (self.store_key(call),), (self._ttl_ms, encoded, call.id))

    @override
    def settled(self, call: Call, outcome: Outcome, reply: Any) -> Defer | None:
        """Come again for the other's result if the claim was lost meanwhile."""
        if reply and outcome is Outcome.SUCCESS:
            return Defer(WAIT_SECONDS[0], f"another execution of {call.name} with this key began: its result counts")
        return None


def _encode(value: Any, task: Any) -> bytes:
    """Return a result with its own description, so that it can be read whatever the settings are by then."""
    serializer = task.app.conf.result_serializer
    content_type, encoding, data = _dumps(value, serializer=serializer)
    if isinstance(data, str):
        return json.dumps([content_type, encoding, data]).encode()
    return json.dumps([content_type, encoding, base64.b64encode(data).decode(), "base64"]).encode()


def _decode(record: bytes, task: Any) -> Any:
    """Return a stored result; its serializer must be one that the application takes results of, as its signature."""
    conf = task.app.conf
    accept = {conf.result_serializer, *(conf.result_accept_content or conf.accept_content)}
    content_type, encoding, data, *wrapped = json.loads(record)
    body = base64.b64decode(data) if wrapped else data
    return _loads(body, content_type, encoding, accept=_accepted(list(accept)))
