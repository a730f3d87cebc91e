"""What kind of failure an exception is."""

from __future__ import annotations

import errno
import urllib.error
from datetime import UTC, datetime
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest
import redis.exceptions
from celery.exceptions import InvalidTaskError, WorkerLostError
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import ContentDisallowed, OperationalError

from celery_patterns.resilience.classification import (
    DEFAULT_RULES,
    Permanent,
    Poison,
    Rules,
    Throttled,
    Transient,
    Verdict,
    classify,
)


class ResponseError(Exception):
    """As requests and httpx raise it: the answer is in ``response``."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.response = SimpleNamespace(
            status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


class GrpcError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def code(self) -> Any:
        return SimpleNamespace(name=self._name)


def url_error(status: int) -> urllib.error.HTTPError:
    headers = Message()
    headers["retry-after"] = "7"
    return urllib.error.HTTPError("http://api", status, "no", headers, None)


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionResetError(104, "reset"), Transient("builtins.ConnectionError")),
        (TimeoutError(), Transient("builtins.TimeoutError")),
        (redis.exceptions.BusyLoadingError(), Transient("redis.exceptions.ConnectionError")),
        (redis.exceptions.ResponseError("wrong type"), Permanent("redis.exceptions.ResponseError")),
        (redis.exceptions.OutOfMemoryError(), Transient("redis.exceptions.OutOfMemoryError")),
        (redis.exceptions.AuthenticationError(), Permanent("redis.exceptions.AuthenticationError")),
        (OperationalError(), Transient("kombu.exceptions.OperationalError")),
        (KeyError("x"), Permanent("builtins.LookupError")),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), Permanent("builtins.ValueError")),
        (OSError(errno.ENOSPC, "full"), Transient("ENOSPC")),
        (OSError(errno.EROFS, "read-only"), Permanent("EROFS")),
        (PermissionError(errno.EACCES, "no"), Permanent("builtins.PermissionError")),
        (MemoryError(), Poison("builtins.MemoryError")),
        (WorkerLostError(), Poison("billiard.exceptions.WorkerLostError")),
        (InvalidTaskError(), Poison("celery.exceptions.InvalidTaskError")),
        (ContentDisallowed(), Poison("kombu.exceptions.ContentDisallowed")),
        (ResponseError(500), Transient("HTTP status 500")),
        (ResponseError(501), Permanent("HTTP status 501")),
        (ResponseError(404), Permanent("HTTP status 404")),
        (ResponseError(503), Transient("HTTP status 503")),
        (ResponseError(503, Retry_After="20"), Throttled("HTTP status 503", 20.0)),
        (ResponseError(429), Throttled("HTTP status 429")),
        (ResponseError(429, Retry_After="soon"), Throttled("HTTP status 429")),
        (ResponseError(429, Retry_After="nan"), Throttled("HTTP status 429")),
        (
            ResponseError(429, Retry_After="Sun, 22 Nov 2026 20:00:30 GMT", Date="Sun, 22 Nov 2026 20:00:00 GMT"),
            Throttled("HTTP status 429", 30.0),
        ),
        (url_error(429), Throttled("HTTP status 429", 7.0)),
        (GrpcError("UNAVAILABLE"), Transient("HTTP status 503")),
        (GrpcError("RESOURCE_EXHAUSTED"), Throttled("HTTP status 429")),
        (GrpcError("INVALID_ARGUMENT"), Permanent("HTTP status 400")),
        (chained(OwnError(), ConnectionRefusedError()), Transient("builtins.ConnectionError")),
        (chained(KeyError(), ConnectionRefusedError()), Permanent("builtins.LookupError")),
        (
            ExceptionGroup("two", [TimeoutError(), ResponseError(429, Retry_After="3")]),
            Throttled("HTTP status 429", 3.0),
        ),
        (ExceptionGroup("two", [TimeoutError(), KeyError()]), Permanent("builtins.LookupError")),
        (SystemExit(1), Permanent("builtins.SystemExit is in no table and no rule knows it")),
    ],
    ids=repr,
)
def test_default_rules(error: BaseException, verdict: Verdict) -> None:
    assert classify(error) == verdict


def test_date_of_retry_after_is_measured_from_now_where_the_answer_has_no_date() -> None:
    error = ResponseError(429, Retry_After="Sun, 22 Nov 2026 20:00:30 GMT")
    assert classify(error) == Throttled("HTTP status 429", None)
    now = datetime(2026, 11, 22, 20, 0, 10, tzinfo=UTC)
    assert classify(error, now=now) == Throttled("HTTP status 429", 20.0)
    late = datetime(2026, 11, 22, 21, tzinfo=UTC)
    assert classify(error, now=late) == Throttled("HTTP status 429", 0.0)


def test_users_rules_go_first_in_order_and_never_goes_before_on() -> None:
    rules = Rules(
        decide=(lambda e: Poison("a robot") if "robot" in str(e) else None,),
        on=(OSError, OwnError),
        never=(FileExistsError,),
        poison=(ZeroDivisionError,),
        statuses={409: Transient("a concurrent write")},
        unknown=Transient,
    )
    kinds = [
        classify(error, rules)
        for error in (
            OwnError("a robot"),
            OwnError("else"),
            FileExistsError(),
            PermissionError(),
            ZeroDivisionError(),
            ResponseError(409),
        )
    ]
    assert kinds[0] == Poison("a robot")
    assert [type(kind) for kind in kinds[1:]] == [Transient, Permanent, Transient, Poison, Transient]
    assert type(classify(GeneratorExit(), rules)) is Transient


def test_exception_that_says_when_to_come_back_is_throttled() -> None:
    class Busy(Exception):  # noqa: N818 - named as clients name it
        retry_after = 4

    assert classify(Busy()) == Throttled(f"{__name__}.{Busy.__qualname__} says retry_after", 4.0)


def test_type_in_on_and_never_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OSError: named both in on= .* and in never="):
        Rules(on=(OSError,), never=(OSError,))


def test_circle_of_causes_ends() -> None:
    first, second = OwnError("first"), OwnError("second")
    first.__cause__, second.__cause__ = second, first
    assert type(classify(first)) is Permanent


@given(st.one_of(st.integers(), st.text(), st.none(), st.binary(), st.floats(), st.dictionaries(st.text(), st.text())))
def test_whatever_an_exception_carries_there_is_a_verdict(value: Any) -> None:
    """Attributes that look like an answer but are none must not make the classification itself fail."""
    error = OwnError("odd")
    for name in ("response", "code", "status", "status_code", "headers", "retry_after"):
        setattr(error, name, value)
    assert isinstance(classify(error, DEFAULT_RULES), (Transient, Permanent, Throttled, Poison))
    odd = OwnError("odder")
    odd.response = SimpleNamespace(status_code=value, headers=value)  # type: ignore[attr-defined]
    assert isinstance(classify(odd, DEFAULT_RULES), (Transient, Permanent, Throttled, Poison))
