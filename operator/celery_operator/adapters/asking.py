"""Asking brokers and result backends, whatever their kind: how long they may take, and what their errors mean."""

from __future__ import annotations

from amqp.exceptions import AccessRefused
from kombu.exceptions import KombuError
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from celery_operator.api.conditions import Reason
from celery_patterns.protocol import mask_url

CONNECT_SECONDS = 2.5
"""A reachable server accepts within milliseconds; whoever asks wants an answer within three seconds."""

ANSWER_SECONDS = 3.0
"""For one whole exchange, a reconnection included: conditions promise an answer within three seconds."""

_REFUSALS = ("NOAUTH", "WRONGPASS", "NOPERM")
"""How Redis begins the answers that redis-py has no exceptions of their own for."""


def explain(url: str, what: str, error: BaseException) -> tuple[str, Reason]:
    """Return a message without credentials, and the reason, for an error of redis-py, py-amqp or kombu.

    Args:
        url: The server, named in the message without its credentials.
        what: What was tried ("count what waits").
        error: What came of it.
    """
    cause = error.__cause__ if isinstance(error, KombuError) and error.__cause__ is not None else error
    where, text = mask_url(url), mask_url(str(cause)) or type(cause).__name__
    if _refused(cause):
        message = f"{where} refuses the credentials ({text}): check user, password and permissions"
        return message, Reason.AUTHENTICATION_FAILED
    return f"cannot {what} at {where}: {text}", Reason.CONNECTION_FAILED


def _refused(error: BaseException) -> bool:
    if isinstance(error, AccessRefused | AuthenticationError | NoPermissionError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(_REFUSALS)
