"""The operator's private Celery application object for one broker: message defaults, and remote control.

It is never made the current app, holds no tasks and never touches a result backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu import connection as kombu_connection
from kombu import pidbox

from celery_operator.adapters.asking import ANSWER_SECONDS, CONNECT_SECONDS

_Connection: Any = kombu_connection.Connection
_Mailbox: Any = pidbox.Mailbox
"""kombu says that it is typed and is not."""

REDIS_TRANSPORT_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": ANSWER_SECONDS,
}
AMQP_TRANSPORT_OPTIONS: dict[str, Any] = {
    "read_timeout": ANSWER_SECONDS,
    "write_timeout": ANSWER_SECONDS,
}
_ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
"""For kombu's own reconnecting, which else never ends; whoever asks tries again later."""


def private_app(url: str) -> Celery:
    """Return an application object for this broker; it connects to nothing."""
    return Celery("celery-operator", broker=url, set_as_current=False)


def revoke(app: Celery, url: str, task_ids: Sequence[str]) -> None:
    """Tell all workers to forget these tasks. Blocks; raises kombu's and the driver's errors.

    The message is that of ``app.control.revoke``; the connection is its own, since Celery's pools are shared by all
    apps of a process with the same URL and cannot be reopened once one of them has closed its own.
    """
    mailbox = _Mailbox(app.conf.control_exchange, type="fanout", accept=["json"], serializer="json")
    with connect(url) as connection:
        mailbox(connection).abcast("revoke", {"task_id": list(task_ids), "terminate": False, "signal": "SIGTERM"})


def connect(url: str) -> Any:
    """Return a kombu connection (not yet connected) whose every step is bounded."""
    options = AMQP_TRANSPORT_OPTIONS if not url.lower().startswith("redis") else REDIS_TRANSPORT_OPTIONS
    return _Connection(url, connect_timeout=CONNECT_SECONDS, transport_options={**options, **_ONE_TRY})
