"""One refusal has one wording, whichever library brought it, and no credentials in it."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused
from kombu.exceptions import OperationalError
from redis.asyncio import SSLConnection
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, ResponseError  # noqa: A004 - redis-py's

from celery_operator.adapters.asking import explain
from celery_operator.adapters.redis_client import open_redis
from celery_operator.api.conditions import Reason

URL = "redis://me:secret@there/0"
WORDS = "no, not redis://me:secret@there"


def wrapped(cause: Exception) -> OperationalError:
    """Return what kombu makes of a driver's error."""
    error = OperationalError("kombu's own words")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AuthenticationError(WORDS), "no, not redis://***@there"),
        (NoPermissionError(WORDS), "no, not redis://***@there"),
        (ResponseError("WRONGPASS of redis://me:secret@there"), "WRONGPASS of redis://***@there"),
        (wrapped(AuthenticationError(WORDS)), "no, not redis://***@there"),
        (AccessRefused("ACCESS_REFUSED"), "ACCESS_REFUSED"),
    ],
    ids=["redis", "acl", "response", "kombu", "amqp"],
)
def test_refused_credentials(error: Exception, said: str) -> None:
    message = f"redis://***@there/0 refuses the credentials ({said}): check user, password and permissions"
    assert explain(URL, "publish", error) == (message, Reason.AUTHENTICATION_FAILED)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError(WORDS), "no, not redis://***@there"),
        (ResponseError("OOM command not allowed"), "OOM command not allowed"),
        (wrapped(OSError()), "OSError"),
        (OperationalError("nobody there"), "nobody there"),
    ],
    ids=["redis", "response", "kombu", "without a cause"],
)
def test_any_other_trouble(error: Exception, said: str) -> None:
    expected = (f"cannot publish at redis://***@there/0: {said}", Reason.CONNECTION_FAILED)
    assert explain(URL, "publish", error) == expected


async def test_a_scheme_in_capitals_asks_for_tls_too() -> None:
    client = open_redis("REDISS://there")
    assert client.connection_pool.connection_class is SSLConnection
    await client.aclose()
