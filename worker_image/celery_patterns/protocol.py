"""The contract between operator and worker: message headers, key names and agent endpoints.

Both sides import this module and nothing else of each other. It holds names, small frozen values and pure functions; it
imports only the standard library and talks to nothing. Changing anything here changes what a new operator says to an
old worker, so additions only: names are never reused with another meaning.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

PROTOCOL_VERSION = 1

# ------------------------------------------------------------------------------------------------- the message header

TASK_HEADER = "celery_operator"
"""Name of the message header that marks a workflow's task; its value is ``TaskIdentity.to_header()``."""

TRIES_HEADER = "celery_patterns"
"""Header in which a task of the patterns counts its tries and deferrals (``tasks.headers.Tries``)."""

PUBLISHED_AT_HEADER = "published_at"
"""Seconds since the epoch at which a message was published (float). Celery itself notes no such time."""


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """Which element of which workflow a message is; everything an announcement needs to find its way back."""

    uid: str
    """metadata.uid of the CeleryWorkflow."""
    run: int
    step: str
    index: int
    """0 for a step that is one task, else the item's (or the reduce level's) position."""
    attempt: int
    """1 for the first try."""
    values_inline: bool = False
    """True if every argument is already a value (nothing to resolve before running)."""

    @property
    def task_id(self) -> str:
        """The Celery task id: the same for the same element and attempt, whoever publishes it."""
        return task_id(self.uid, self.run, self.step, self.index, self.attempt)

    def to_header(self) -> dict[str, Any]:
        """Return the JSON value of ``TASK_HEADER``."""
        # Written out: ``asdict`` copies deeply, which for every message of a fan-out costs more than its arguments.
        return {
            "v": PROTOCOL_VERSION,
            "uid": self.uid,
            "run": self.run,
            "step": self.step,
            "index": self.index,
            "attempt": self.attempt,
            "values_inline": self.values_inline,
        }

    @classmethod
    def from_header(cls, value: Any) -> TaskIdentity | None:
        """Read a header's value; None if it is not one of ours or of a protocol this worker does not speak."""
        if not isinstance(value, dict) or value.get("v") != PROTOCOL_VERSION:
            return None
        try:
            return cls(
                uid=str(value["uid"]),
                run=int(value["run"]),
                step=str(value["step"]),
                index=int(value["index"]),
                attempt=int(value["attempt"]),
                values_inline=bool(value.get("values_inline", False)),
            )
        except (KeyError, TypeError, ValueError, OverflowError):  # the last: JSON's readers take Infinity for a number
            return None


def task_id(uid: str, run: int, step: str, index: int, attempt: int) -> str:
    """Return the deterministic id of one attempt: ``uuid5`` of (workflow uid, run, step, index, attempt).

    Raises ValueError if ``uid`` is no UUID.
    """
    # uuid.uuid5() spelled out: its objects cost three times as much as the digest, and a fan-out needs many ids.
    name = f"{run}/{step}/{index}/{attempt}".encode()
    digest = hashlib.sha1(_namespace(uid) + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


@functools.lru_cache(maxsize=256)
def _namespace(uid: str) -> bytes:
    return uuid.UUID(uid).bytes


# --------------------------------------------------------------------------------------- values passed by reference

REFERENCE_KEY = "__celery_operator_reference__"
"""A JSON object with this single key stands where an argument's value will be; workers resolve it before running."""


@dataclass(frozen=True, slots=True)
class ResultReference:
    """The result of a step: one task's result, or the list of its items' results in order.

    The worker derives the task ids itself, so a reference does not grow with the fan-out, except for the attempts of
    the items that needed more than one. ``start`` and ``stop`` cut a slice out of a fan-out (for a tree reduce).
    """

    uid: str
    run: int
    step: str
    start: int = 0
    stop: int | None = None
    """None: the step is a single task, and its result is the value itself, not a list."""
    attempts: tuple[tuple[int, int], ...] = ()
    """(index, attempt) where the attempt that succeeded is not 1."""
    missing: tuple[int, ...] = ()
    """Indexes whose failure was tolerated: ``None`` stands in the list for them."""
    path: str | None = None
    """JSONPath into the value; None: the whole value."""

    def task_ids(self) -> list[str | None]:
        """Return the ids to read, in order; None for a missing item."""
        attempts = dict(self.attempts)
        missing = set(self.missing)
        stop = self.start + 1 if self.stop is None else self.stop
        return [
            None if index in missing else task_id(self.uid, self.run, self.step, index, attempts.get(index, 1))
            for index in range(self.start, stop)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the message."""
        return {REFERENCE_KEY: dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> ResultReference | None:
        """Read a message's value; None if it is no reference."""
        if not isinstance(value, dict) or len(value) != 1 or REFERENCE_KEY not in value:
            return None
        raw = dict(value[REFERENCE_KEY])
        raw["attempts"] = tuple((int(i), int(a)) for i, a in raw.get("attempts", ()))
        raw["missing"] = tuple(int(i) for i in raw.get("missing", ()))
        return cls(**raw)


# ---------------------------------------------------------------------------------------------------- announcements

ANNOUNCE_CHANNEL = "celery-operator:announce"
"""Redis pub/sub channel on the result backend's server; a message is a JSON list of ``Announcement.to_json()``.

Pub/sub ignores database numbers, so the backend's number and key prefix are part of the name: see announce_channel().
"""


def announce_channel(db: int, key_prefix: str = "") -> str:
    """Return the channel for a result backend of that database number and ``global_keyprefix``."""
    return f"{ANNOUNCE_CHANNEL}:{db}:{key_prefix}"


STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
"""States of an announcement, in Celery's words. STARTED is announced when the attempt is claimed; RETRY means that
Celery's own retry will run it again under the same id."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker tells the operator about a workflow's task, after its result is stored."""

    identity: TaskIdentity
    state: str
    size: int = 0
    """Bytes of the stored JSON result (0 if none)."""
    value: Any = None
    """The result itself if ``has_value``."""
    has_value: bool = False
    """True for a small result (INLINE_VALUE_BYTES) of state SUCCESS: it need not be read back."""
    exception: str = ""
    """Type name of the exception of a FAILURE; TimeLimitExceeded for a time limit."""
    message: str = ""
    """str(exception), cut to MESSAGE_CHARACTERS."""
    worker: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this announcement, without its defaults."""
        body: dict[str, Any] = {"i": self.identity.to_header(), "s": self.state, "n": self.size, "w": self.worker}
        if self.has_value:
            body["r"] = self.value
        if self.exception:
            body["e"] = self.exception
            body["m"] = self.message
        return body

    @classmethod
    def from_json(cls, body: Any) -> Announcement | None:
        """Read one announcement; None if it is malformed or of another protocol version."""
        if not isinstance(body, dict):
            return None
        identity = TaskIdentity.from_header(body.get("i"))
        state, size = body.get("s"), body.get("n", 0)
        if identity is None or not isinstance(state, str) or not isinstance(size, int):
            return None
        return cls(
            identity=identity,
            state=state,
            size=size,
            value=body.get("r"),
            has_value="r" in body,
            exception=str(body.get("e", "")),
            message=str(body.get("m", "")),
            worker=str(body.get("w", "")),
        )


INLINE_VALUE_BYTES = 4096
"""Results up to this size travel inside announcements and arguments; larger ones by reference."""

MESSAGE_CHARACTERS = 256
"""Exception messages are cut to this length: status keeps no more."""

# ------------------------------------------------------------------------------------------------------------ claims

CLAIM_PREFIX = "celery-operator:claim:"
"""Redis hash on the result backend, one for each attempt that began: fields state, token, worker, until (ms, server's
time), starts; where it ended with a retry by Celery's own means also retry_at (ms, server's time) and retry_with
(``RetryNote.to_text()``), and where it ended without a result, rejected (the exception's type). It outlives the run, or
the time of the retry, by CLAIM_KEEP_SECONDS so that a late duplicate finds it."""

CLAIM_LEASE_SECONDS = 30
"""A claim that is not renewed for this long belongs to a dead worker."""

CLAIM_KEEP_SECONDS = 86_400
"""How long a finished claim is remembered: as long as Celery keeps results by default."""

CLAIM_RUNNING = "running"
CLAIM_DONE = "done"
CLAIM_ABANDONED = "abandoned"


def claim_key(task_id: str, retries: int = 0, key_prefix: str = "") -> str:
    """Return the key that guards one execution: the attempt's id and Celery's own retry count."""
    return f"{key_prefix}{CLAIM_PREFIX}{task_id}:{retries}"


RETRY_NOTE_BYTES = 1024
"""A longer note is not kept: the claims of a wide fan-out stay small, and what it would say can be done without."""


@dataclass(frozen=True, slots=True)
class RetryNote:
    """What the message of a retry by Celery's own means carries that whoever publishes it again cannot know."""

    queue: str = ""
    """Where it was sent if that is another queue than its predecessor's."""
    tries: dict[str, Any] | None = None
    """The value of TRIES_HEADER."""

    def to_text(self) -> str:
        """Return the text that the claim keeps; empty if there is nothing to say or far too much."""
        body = {name: value for name, value in (("q", self.queue), ("t", self.tries)) if value}
        if not body:
            return ""
        text = json.dumps(body, separators=(",", ":"))
        return text if len(text) <= RETRY_NOTE_BYTES else ""

    @classmethod
    def from_text(cls, text: str) -> RetryNote:
        """Read a claim's text; what cannot be read says nothing."""
        try:
            body = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            body = {}
        queue, tries = (body.get("q"), body.get("t")) if isinstance(body, dict) else (None, None)
        return cls(queue if isinstance(queue, str) else "", tries if isinstance(tries, dict) else None)


# --------------------------------------------------------------------------------------------------- the worker agent

AGENT_MODULE = "celery_patterns.agent.autoload"
"""``celery -A APP worker -I <this>`` turns the agent on in any application."""

RUN_CELERY = "run-celery"
RUN_AGENT = "run-agent"
"""Programs beside an injected agent: ``celery``, and ``python -m celery_patterns.agent``. No module's names: they hide
nothing of the application's that stands on the same search path."""

AGENT_PORT = 9540
ENV_AGENT_PORT = "CELERY_AGENT_PORT"
"""Port of the agent's HTTP server; 0 chooses a free one, noted in CELERY_AGENT_ADDRESS_FILE."""
ENV_AGENT_HOST = "CELERY_AGENT_HOST"
"""Address to listen on; default all interfaces (kubelet's probes come from the node)."""
ENV_AGENT_ADDRESS_FILE = "CELERY_AGENT_ADDRESS_FILE"
"""If set, the agent writes ``host:port`` there once it listens."""
ENV_AGENT_TOKEN_FILE = "CELERY_AGENT_TOKEN_FILE"
"""File with the pool's bearer token. Without it the endpoints that change a worker are refused (403)."""
ENV_AGENT_LEASE = "CELERY_AGENT_LEASE_SECONDS"
"""Redis brokers: seconds after which the messages of a killed worker are back in their queues."""
LEASED_SUFFIX = ":leased"
"""What workers with such a lease hold is listed under kombu's ``unacked`` and ``unacked_index`` with this appended."""
ENV_MAX_DELIVERIES = "CELERY_PATTERNS_MAX_DELIVERIES"
"""How often a message is delivered that kills whatever runs it, before it becomes a dead letter."""
ENV_POOL = "CELERY_OPERATOR_POOL"
"""``namespace/name`` of the pool the worker belongs to (labels its logs and metrics)."""

PATH_STARTUP = "/healthz/startup"
"""200 once the worker consumes (worker_ready) or has been told not to."""
PATH_READY = "/healthz/ready"
"""200 while it consumes; 503 before that and while draining. Never depends on the broker being reachable."""
PATH_LIVE = "/healthz/live"
"""200 while the process lives; 503 if an event-loop worker has not ticked for LIVE_LIMIT_SECONDS."""
PATH_STATE = "/state"
"""GET: WorkerState.to_json()."""
PATH_METRICS = "/metrics"
PATH_DRAIN = "/drain"
"""POST, needs the token: cancel every consumer, finish what is held. Answers WorkerState at once; idempotent."""
PATH_RESUME = "/resume"
"""POST, needs the token: consume again. Answers WorkerState; idempotent."""

LIVE_LIMIT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker holds and runs, in Celery's words, counted by the worker itself."""

    hostname: str
    slots: int
    """How many tasks it can run at a time."""
    active: int
    reserved: int
    """Taken from the broker and waiting for a slot, without the active and the scheduled."""
    scheduled: int
    """Held for later (eta, countdown), not yet due."""
    scheduled_due: int = 0
    """Held for later and due by now: counts as demand."""
    ready: bool = False
    draining: bool = False
    drained: bool = False
    """Draining, consumers cancelled, and nothing active, reserved or scheduled any more."""
    oldest_active_seconds: float = 0.0
    idle_seconds: float = 0.0
    """How long it has held nothing; 0 while it holds something."""
    queues: tuple[str, ...] = ()
    celery_version: str = ""
    finished: dict[str, int] = field(default_factory=dict)
    """Tasks finished since start, by state."""
    oldest_seconds: float | None = None
    """Age of the oldest message it holds or runs, since publishing; None: it holds none that says when that was."""
    delay_seconds: float | None = None
    """The longest time from publishing (or from the eta) to start among the last tasks; None: none says when it was
    published, or none began lately."""
    lease_seconds: float | None = None
    """The short lease of what it holds; None: the broker's own rule (an hour on Redis, the connection on RabbitMQ)."""
    lease_refusal: str = ""
    """Why there is no short lease though one was asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON body of ``GET /state``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Any) -> WorkerState:
        """Read the body of ``GET /state``; unknown fields are ignored. Raises ValueError if it is not one."""
        if not isinstance(body, dict):
            raise ValueError(f"expected a JSON object from the worker's {PATH_STATE}, got {type(body).__name__}")
        known = {f.name for f in dataclasses.fields(cls)}
        values = {name: value for name, value in body.items() if name in known}
        for name, value in values.items():
            if not _fits(name, value):
                raise ValueError(f"the worker's {PATH_STATE} says {name}: {str(value)[:50]}, which cannot be")
        values["queues"] = tuple(values.get("queues", ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"the worker's {PATH_STATE} lacks a field: {error}") from error


_COUNTS = frozenset({"slots", "active", "reserved", "scheduled", "scheduled_due"})
_SECONDS = frozenset({"oldest_active_seconds", "idle_seconds"})
_SECONDS_OR_NONE = frozenset({"oldest_seconds", "delay_seconds", "lease_seconds"})
_TRUTHS = frozenset({"ready", "draining", "drained"})
_COLLECTIONS: dict[str, type] = {"queues": list, "finished": dict}


def _fits(name: str, value: Any) -> bool:
    """Say whether a field of a WorkerState may have this value: what is no number must not be counted."""
    if name in _COUNTS:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name in _SECONDS or (name in _SECONDS_OR_NONE and value is not None):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _TRUTHS:
        return isinstance(value, bool)
    return isinstance(value, _COLLECTIONS.get(name, str)) or name in _SECONDS_OR_NONE


# -------------------------------------------------------------------------------------------- Celery's own key names

RESULT_KEY_PREFIX = "celery-task-meta-"
"""Key of a task's result on a Redis backend; also the pub/sub channel that carries the whole result."""

PRIORITY_SEPARATOR = "\x06\x16"
PRIORITY_STEPS = (0, 3, 6, 9)
"""kombu's Redis transport keeps one list for each step; 0 is the most urgent there. ``queue`` itself is step 0."""


def priority_keys(queue: str, key_prefix: str = "") -> tuple[str, ...]:
    """Return the Redis lists that together are one queue (kombu 5.7 defaults)."""
    return tuple(
        f"{key_prefix}{queue}{PRIORITY_SEPARATOR}{step}" if step else f"{key_prefix}{queue}" for step in PRIORITY_STEPS
    )


_CREDENTIALS = re.compile(r"(?<![a-z0-9+.-])(?P<scheme>[a-z0-9+.-]+://)[^\s\"']*@", re.IGNORECASE)
"""Up to the last @ of the word: a password may hold what should have been escaped. A word is looked at from its
beginning only, so that a long text takes no longer than its length."""


def mask_url(text: str) -> str:
    """Return the text with the user and password of every URL in it replaced by ``***``."""
    return _CREDENTIALS.sub(r"\g<scheme>***@", text)


def new_token() -> str:
    """Return a fresh claim token (128 random bits)."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
