"""Keeps the letters of the policy ``celery_patterns.tasks.DeadLetter``: ``DeadLetter(to=task_letters)``.

That policy works in any worker, without the agent, from the process that ran the task. It has no longer the message's
bytes, so its body is written anew; all else is as in every dead letter, and the same commands look after it.
"""

from __future__ import annotations

from typing import Any, Final

from kombu.serialization import dumps

from celery_patterns import protocol
from celery_patterns.resilience import letters
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.settings import ResilienceSettings

REASONS: Final = {
    "failed": letters.FAILED,
    "refused": letters.REJECTED,
    "lost": letters.WORKER_LOST,
    "time_limit": letters.TIMEOUT,
}
"""The policy's reasons, as letters call them."""


class TaskLetters:
    """Keeps letters of tasks.

    Args:
        app: The Celery application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def put(self, letter: Any) -> None:
        """Keep a ``celery_patterns.tasks.dead_letter.Letter``.

        Raises:
            StoreUnavailable: If it cannot be kept.
        """
        content = [list(letter.args), dict(letter.kwargs), dict(letter.embed)]
        kind, encoding, body = dumps(content, serializer=self._app.conf.task_serializer)  # type: ignore[no-untyped-call]
        message = OriginalMessage(
            body=body.encode() if isinstance(body, str) else body,
            headers={**letter.headers, "id": letter.task_id, "task": letter.task},
            content_type=kind,
            content_encoding=encoding,
        )
        kept = Letter(
            id="",
            queue=letter.queue or str(self._app.conf.task_default_queue),
            reason=REASONS.get(letter.reason, letters.FAILED),
            message=message,
            error=describe(letter.error),
            attempts=letter.attempts,
        )
        letters_of(self._app, ResilienceSettings.of(self._app.conf)).keep(kept, protocol.new_token())


def task_letters(app: Any) -> TaskLetters:
    """Return the keeper of an application's letters; for ``DeadLetter(to=task_letters)``."""
    return TaskLetters(app)
