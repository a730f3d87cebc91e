"""The contract between a PatternTask and its policies: what a policy is asked, when, and what it may answer.

A task's policies are asked in their fixed order (``Policy.order``), at these points:

=====================  ==============  =====================================================================
point                  where           what a policy overrides
=====================  ==============  =====================================================================
declaration            everywhere      ``bind``: check the options against the task
publish                the publisher   ``publish``: let it go, change it, or answer without publishing
before the run         pool process    ``resolve`` the arguments; ``admission`` (a part of one Lua script, all
                                       policies in one round trip),
                                       then ``admitted`` (reads the script's reply), then ``before`` (anything else)
after the run          pool process    ``returned`` (what becomes of the result), then
                                       ``settlement`` (all policies in one round trip), ``after`` (anything else)
failure                pool process    ``on_failure``: try again, succeed after all, or no opinion
no further try         pool process    ``given_up``: the task has failed for good
process lost           main process    ``lost``: the pool process was killed, by a time limit or by the system
=====================  ==============  =====================================================================

A policy is an immutable value: whatever it remembers stands in the store. It decides; the task acts.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from celery_patterns.store import names

# ------------------------------------------------------------------------------------------------------------ answers


@dataclass(frozen=True, slots=True)
class Admit:
    """The task may run, after ``wait`` seconds of waiting in place (short waits only: the slot stays taken)."""

    wait: float = 0.0
    fence: int | None = None
    """A number that grows with every holder of what was admitted; pass it on to whatever can compare it."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now: the message goes back and comes again after ``seconds``. Costs none of the task's retries."""

    seconds: float
    reason: str
    """For people, and shown in the result while the task waits."""
    give_up_after: float | None = None
    """Once deferred for so many seconds in all, the task fails with TooLongDeferred. None: never."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The task ends as a success with this result, without running."""

    result: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The task ends without running and without success: its state becomes REVOKED with this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The task fails with this error, without running."""

    error: Exception


Decision = Admit | Defer | Skip | Drop | Refuse
"""What a policy may say before the run. Anything but Admit ends the asking; what others took is given back."""


@dataclass(frozen=True, slots=True)
class Again:
    """After a failure: run the task again in ``seconds``, under the same id. Costs one retry."""

    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Instead:
    """After a failure: the task succeeds with this result after all (a fallback)."""

    result: Any


Remedy = Again | Instead
"""What a policy may say to a failure; the first that has an opinion is followed."""


class Outcome(enum.Enum):
    """How one execution ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """Failed, and there is no further try."""
    RETRY = "retry"
    """Failed, and comes again under the same id."""
    DEFERRED = "deferred"
    """Ended before it ran, and comes again (a later policy deferred it)."""
    ENDED = "ended"
    """Ended before it ran, for good (a later policy skipped, dropped or refused it)."""


# ------------------------------------------------------------------------------------------------- what policies see


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a task: what came with the message, read once."""

    task: Any
    """The Celery task."""
    id: str
    token: str
    """New for every delivery of a message: tells this execution from every other of the same id."""
    arguments: Mapping[str, Any]
    """The arguments by the names of the task's parameters, defaults filled in."""
    attempt: int = 1
    """1 for the first try; deferrals do not count."""
    deferrals: int = 0
    retries: int = 0
    """Celery's own count: attempts - 1 + deferrals."""
    redelivered: bool = False
    """The broker took the message back from a worker before."""
    first_at: float | None = None
    """Seconds since the epoch at which the first try began; None if this is the first."""
    worker: str = ""
    deferred: float = 0.0
    """Seconds for which it has been deferred since it ran last."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a policy learns in ``admitted`` and needs in ``settlement``, under the policy's name."""

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)

    @property
    def holder(self) -> str:
        """Names this execution as the holder of locks and claims (see ``celery_patterns.store.leases``)."""
        return f"{names.shorten(self.id)}|{self.token}"


CANVAS_OPTIONS = ("chain", "chord", "group_id", "link", "link_error", "parent_id", "root_id")
"""Options of ``apply_async`` with which Celery publishes a member of a canvas."""


@dataclass(slots=True)
class Publication:
    """One message about to be published; policies may change it."""

    task: Any
    id: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    headers: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of ``apply_async``."""
    retrying: bool = False
    """The message is a retry or a deferral of one published before."""
    called_with: tuple[tuple[Any, ...], dict[str, Any]] = field(init=False)
    """Positional and keyword arguments as the caller gave them, and as the task will see them, whatever policies put
    into the message instead: keys are made of these."""

    def __post_init__(self) -> None:
        self.called_with = (tuple(self.args), dict(self.kwargs))

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)

    @property
    def in_canvas(self) -> bool:
        """Whether something waits for just this id: what follows in a chain, a group, a callback, a parent task."""
        return any(self.options.get(name) for name in CANVAS_OPTIONS)


@dataclass(frozen=True, slots=True)
class Existing:
    """At publish: nothing is sent, and the caller gets the result handle of this other task."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Withhold:
    """At publish: nothing is sent, and the caller's result handle says REVOKED with this reason."""

    reason: str


# --------------------------------------------------------------------------------------------- parts of one Lua script


@dataclass(frozen=True, slots=True)
class Fragment:
    """A policy's Lua, composed with that of the task's other policies into one script for each point.

    Every chunk is the body of a function of ``K`` (the step's keys) and ``A`` (its arguments, strings). In scope:
    ``now`` (ms, server's time), ``now_us``, ``HOLDER``, ``LEASE`` (ms), ``OUTCOME`` (settlement only: a value of
    ``Outcome``), ``alive(holder)`` (an execution whose lease has not run out), ``of_task(holder)`` (an execution
    at all), ``num(x)`` (an integer as text, without exponent).

    ``admit`` returns ``{0, ...}`` to admit and ``{n, ...}`` with n > 0 for anything else; the script stops there and
    runs ``undo`` of every earlier policy. ``settle`` may return anything. Every key written gets a TTL.
    """

    name: str
    admit: str
    undo: str = ""
    settle: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """The keys and arguments of one fragment for one call. Make keys with ``call.task.patterns.key(kind, name)``."""

    fragment: Fragment
    keys: tuple[str, ...]
    arguments: tuple[str | int | float | bytes, ...] = ()


# ------------------------------------------------------------------------------------------------------------ a policy


class PolicyError(ValueError):
    """An option of a policy is wrong: names the option, what was expected and what was given."""


class Policy:
    """The policy that lets everything pass; a real one overrides what it needs. Subclasses are frozen dataclasses."""

    name: ClassVar[str] = "policy"
    """Names the policy in messages, in ``explain`` and as the keyword of ``pattern_task(...)``."""
    order: ClassVar[int] = 50
    """Lower is asked earlier, so that the cheapest answer that ends the call comes first and what is scarce last:
    payload 10, idempotent 20, singleton 30, bulkhead 40, circuit 50, rate limit 60, timeout 70, retry 80, fallback 85,
    dead letter 90."""
    needs_store: ClassVar[bool] = False
    """Whether ``admission`` is used: the task then talks to the store before and after each run."""

    @property
    def lease_seconds(self) -> float | None:
        """How long what this policy holds may outlive a dead worker; None: as long as the store's settings say."""
        return None

    def ends_at(self, call: Call) -> float | None:
        """Return when this call's time is over, in seconds since the epoch; None: this policy sets no end."""

    def resolve(
        self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turn a message's arguments into those the task gets, before anything else; a retry carries the former on."""
        del task
        return args, kwargs

    def bind(self, task: Any) -> None:
        """Check the options against the task, when it is declared.

        Raises:
            PolicyError: If they do not fit.
        """

    def publish(self, publication: Publication) -> Existing | Withhold | None:
        """Before a message is published, in the publisher's process. None: it goes (changed or not)."""

    def unpublished(self, publication: Publication) -> None:
        """The broker did not take a message that this policy had let go: give back what ``publish`` took."""

    def admission(self, call: Call) -> Step | None:
        """Return this policy's part of the admission script; None if it has none for this call."""

    def admitted(self, call: Call, reply: list[Any]) -> Decision:
        """Read what ``Fragment.admit`` returned for this call."""
        del call, reply
        return Admit()

    def before(self, call: Call) -> Decision:
        """Decide by other means than the script, after every script has admitted. May talk to other systems."""
        del call
        return Admit()

    def returned(self, task: Any, request: Any, value: Any) -> Any:
        """Return what the task's result becomes, before it is settled, stored or passed on.

        ``value`` is what the task, or a policy in its place, has returned. What is raised here is the task's failure.
        """
        del task, request
        return value

    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step | None:
        """Return this policy's part of the settlement script (``Fragment.settle``); only if its admission admitted.

        ``result`` is what the task returned (SUCCESS) or the exception (FAILURE, RETRY); ``seconds`` how long it ran.
        """

    def settled(self, call: Call, outcome: Outcome, reply: Any) -> Defer | None:
        """Read what ``Fragment.settle`` returned. Defer: what ran does not count, and the task comes again."""

    def after(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> None:
        """After the run, by other means than the script, if ``before`` was asked and admitted. Seconds: run time."""

    def on_failure(self, call: Call, error: BaseException) -> Remedy | None:
        """The task raised. None: no opinion."""

    def on_refusal(self, call: Call, error: Exception) -> Instead | None:
        """Another policy did not let the task run, which is its failure. None: it stays that."""

    def given_up(self, call: Call, error: BaseException) -> None:
        """The task has failed for good; before its failure is stored."""

    def lost(self, task: Any, request: Any, error: BaseException) -> None:
        """In the worker's main process: the process that ran the task is gone, and there is no further try.

        ``request`` is Celery's worker request; ``request.message`` is the original message.
        """

    def store_down(self, call: Call, error: Exception) -> Decision:
        """The store does not answer, so the admission script did not run. Default: come again later."""
        del call
        return Defer(STORE_RETRY_SECONDS, f"the store does not answer: {error}")


STORE_RETRY_SECONDS = 5.0
"""How long a task waits that may not run without the store: about what a failover takes."""
