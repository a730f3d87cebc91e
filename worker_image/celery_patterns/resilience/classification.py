"""What kind of failure an exception is: try again, give up, wait as told, or set aside. Pure: no I/O, no clock.

The tables hold names, not types, so that no driver or client library is imported to recognise its errors.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from celery_patterns.resilience.http_errors import read_http

CAUSES_FOLLOWED = 8
"""How deep ``raise ... from ...`` is followed; deeper chains are loops or accidents."""


@dataclass(frozen=True, slots=True)
class Transient:
    """It may work when tried again: a connection lost, a server restarting, a lock not granted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Permanent:
    """It will fail in the same way whenever it is tried: wrong arguments, no permission, a bug."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """The other side asks for less; ``retry_after`` is in seconds, None if it did not say how long."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Poison:
    """The message itself does harm, or cannot be read: set it aside and look at it."""

    reason: str


Verdict: TypeAlias = Transient | Permanent | Throttled | Poison

Decide: TypeAlias = Callable[[BaseException], Verdict | None]
"""A user's rule: a verdict, or None to leave the decision to the next rule."""


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


TRANSIENT_TYPES: Final = _names(
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "builtins.BlockingIOError",
    "builtins.InterruptedError",
    "socket.timeout",
    "socket.gaierror",
    "ssl.SSLEOFError",
    "asyncio.exceptions.IncompleteReadError",
    "http.client.RemoteDisconnected",
    "http.client.IncompleteRead",
    "celery.exceptions.SoftTimeLimitExceeded",
    "billiard.exceptions.SoftTimeLimitExceeded",
    "kombu.exceptions.OperationalError",
    "amqp.exceptions.RecoverableConnectionError",
    "redis.exceptions.ConnectionError",
    "redis.exceptions.TimeoutError",
    "redis.exceptions.TryAgainError",
    "redis.exceptions.ClusterDownError",
    "redis.exceptions.ReadOnlyError",
    "redis.exceptions.OutOfMemoryError",
    "redis.exceptions.LockError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "requests.exceptions.ChunkedEncodingError",
    "urllib3.exceptions.ProtocolError",
    "urllib3.exceptions.TimeoutError",
    "httpx.TransportError",
    "httpcore.NetworkError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "psycopg.OperationalError",
    "psycopg2.OperationalError",
    "psycopg2.InterfaceError",
    "pymysql.err.OperationalError",
    "pymongo.errors.AutoReconnect",
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "sqlalchemy.exc.TimeoutError",
)

PERMANENT_TYPES: Final = _names(
    "builtins.ValueError",
    "builtins.TypeError",
    "builtins.LookupError",
    "builtins.ArithmeticError",
    "builtins.AttributeError",
    "builtins.NameError",
    "builtins.ImportError",
    "builtins.AssertionError",
    "builtins.NotImplementedError",
    "builtins.RecursionError",
    "builtins.SyntaxError",
    "builtins.PermissionError",
    "builtins.FileNotFoundError",
    "builtins.FileExistsError",
    "builtins.IsADirectoryError",
    "builtins.NotADirectoryError",
    "ssl.SSLCertVerificationError",
    "redis.exceptions.AuthenticationError",
    "redis.exceptions.NoPermissionError",
    "redis.exceptions.ResponseError",
    "celery.exceptions.NotRegistered",
    "celery.exceptions.ImproperlyConfigured",
    "sqlalchemy.exc.IntegrityError",
    "sqlalchemy.exc.ProgrammingError",
)

POISON_TYPES: Final = _names(
    "builtins.MemoryError",
    "billiard.exceptions.WorkerLostError",
    "celery.exceptions.InvalidTaskError",
    "celery.exceptions.SecurityError",
    "kombu.exceptions.DecodeError",
    "kombu.exceptions.ContentDisallowed",
)

PERMANENT_ERRNOS: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EROFS,
        errno.ENAMETOOLONG,
    }
)
"""Errors of the operating system that another try does not mend; all others may pass."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A user's own decisions, asked before the tables.

    Raises:
        ValueError: If a type is named as both worth retrying and not.
    """

    decide: tuple[Decide, ...] = ()
    """Asked first, in this order."""
    on: tuple[type[BaseException], ...] = ()
    """Transient."""
    never: tuple[type[BaseException], ...] = ()
    """Permanent; goes before ``on``, so that a subclass can be taken out of it."""
    poison: tuple[type[BaseException], ...] = ()
    statuses: Mapping[int, Verdict] = field(default_factory=lambda: MappingProxyType({}))
    """Another verdict for an HTTP status, e.g. ``{409: Transient("a concurrent write")}``."""
    unknown: type[Transient | Permanent] = Permanent
    """What an exception is that nothing recognises: a bug, more often than not."""

    def __post_init__(self) -> None:
        both = sorted(kind.__name__ for kind in set(self.on) & set(self.never))
        if both:
            raise ValueError(f"{', '.join(both)}: named both in on= (retry) and in never= (do not): leave one out")


DEFAULT_RULES: Final = Rules()


def classify(error: BaseException, rules: Rules = DEFAULT_RULES, *, now: datetime | None = None) -> Verdict:
    """Say what kind of failure an exception is.

    The order: the user's rules; what the exception says itself (a ``retry_after`` in seconds); an HTTP status it
    carries; the tables, most derived type first; the errno of an OSError; what it was raised from; ``rules.unknown``.

    Args:
        error: The exception; of a group, the worst member decides.
        rules: The user's own decisions.
        now: Needed only to understand a ``Retry-After`` that is a date, where the answer has no ``Date`` of its own.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    for _ in range(CAUSES_FOLLOWED):
        if current is None or id(current) in seen:
            break
        seen.add(id(current))
        verdict = _classify_one(current, rules, now)
        if verdict is not None:
            return verdict
        current = current.__cause__
    return rules.unknown(f"{_name(type(error))} is in no table and no rule knows it")


def _classify_one(error: BaseException, rules: Rules, now: datetime | None) -> Verdict | None:
    if isinstance(error, BaseExceptionGroup):
        return _worst([classify(member, rules, now=now) for member in error.exceptions])
    return (
        _by_user(error, rules)
        or _by_own_word(error)
        or _by_status(error, rules, now)
        or _by_table(type(error))
        or _by_errno(error)
    )


def _by_user(error: BaseException, rules: Rules) -> Verdict | None:
    for decide in rules.decide:
        verdict = decide(error)
        if verdict is not None:
            return verdict
    name = _name(type(error))
    if isinstance(error, rules.poison):
        return Poison(f"{name} is listed in poison=")
    if isinstance(error, rules.never):
        return Permanent(f"{name} is listed in never=")
    if isinstance(error, rules.on):
        return _by_own_word(error) or Transient(f"{name} is listed in on=")
    return None


def _by_own_word(error: BaseException) -> Verdict | None:
    seconds = getattr(error, "retry_after", None)
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds >= 0:
        return Throttled(f"{_name(type(error))} says retry_after", float(seconds))
    return None


def _by_status(error: BaseException, rules: Rules, now: datetime | None) -> Verdict | None:
    answer = read_http(error, now)
    if answer is None:
        return None
    status = answer.status
    if status in rules.statuses:
        return rules.statuses[status]
    reason = f"HTTP status {status}"
    if status == 429 or (status == 503 and answer.retry_after is not None):
        return Throttled(reason, answer.retry_after)
    if status in (408, 423, 425) or (status >= 500 and status not in (501, 505)):
        return Transient(reason)
    return Permanent(reason) if status >= 400 else None


def _by_table(kind: type[BaseException]) -> Verdict | None:
    for ancestor in kind.__mro__:
        name = _name(ancestor)
        if name in POISON_TYPES:
            return Poison(name)
        if name in PERMANENT_TYPES:
            return Permanent(name)
        if name in TRANSIENT_TYPES:
            return Transient(name)
    return None


def _by_errno(error: BaseException) -> Verdict | None:
    if not isinstance(error, OSError) or error.errno is None:
        return None
    word = errno.errorcode.get(error.errno, str(error.errno))
    return Permanent(word) if error.errno in PERMANENT_ERRNOS else Transient(word)


def _worst(verdicts: list[Verdict]) -> Verdict:
    order = (Poison, Permanent, Throttled, Transient)
    return min(verdicts, key=lambda verdict: (order.index(type(verdict)), -(getattr(verdict, "retry_after", 0) or 0)))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
