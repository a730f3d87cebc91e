"""Hooks of a worker's consumer: messages that are no tasks become dead letters instead of being thrown away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_patterns.resilience import letters
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe

if TYPE_CHECKING:
    from celery_patterns.resilience.undertaker import Undertaker

logger = logging.getLogger(__name__)


OF_CONTENT = (LookupError, ValueError, TypeError, AttributeError)
"""Errors of what a message says, never of a connection."""


class HeldMessage:
    """A message as Celery's own handlers see it, whose end is not told to the broker yet.

    Args:
        message: kombu's message.
    """

    def __init__(self, message: Any) -> None:
        self._held_message = message

    def __getattr__(self, name: str) -> Any:
        """Be the message in all else."""
        return getattr(self._held_message, name)

    def ack(self, *args: Any, **kwargs: Any) -> None:
        """Hold it."""

    def reject(self, *args: Any, **kwargs: Any) -> None:
        """Hold it."""

    def ack_log_error(self, *args: Any, **kwargs: Any) -> None:
        """Hold it."""

    def reject_log_error(self, *args: Any, **kwargs: Any) -> None:
        """Hold it."""


def install(consumer: Any, undertaker: Undertaker) -> None:
    """Put the hooks into a consumer, before it makes its task handler; twice is once."""
    if getattr(consumer, "celery_patterns_hooks", None) is not None:
        return
    consumer.celery_patterns_hooks = hooks = _Hooks(consumer, undertaker)
    # Where each handler has the message among its arguments; an error, if there is one, is the last.
    consumer.on_decode_error = hooks.around(consumer.on_decode_error, 0, _reason_of_decoding)
    consumer.on_unknown_message = hooks.around(consumer.on_unknown_message, 1, lambda _: letters.INVALID)
    consumer.on_unknown_task = hooks.around(consumer.on_unknown_task, 1, lambda _: letters.UNKNOWN_TASK)
    consumer.on_invalid_task = hooks.around(consumer.on_invalid_task, 1, _reason_of_invalid)
    make_handler = consumer.create_task_handler
    consumer.create_task_handler = lambda *args, **kwargs: hooks.careful(make_handler(*args, **kwargs))


class _Hooks:
    def __init__(self, consumer: Any, undertaker: Undertaker) -> None:
        self._consumer = consumer
        self._undertaker = undertaker
        errors = (*consumer.connection_errors, *consumer.channel_errors)
        # kombu's Redis transport lists KeyError and the like among its channel's errors, so a message without an id
        # would make Celery reconnect, get the message back and reconnect, for ever.
        self._broken = tuple(kind for kind in errors if not issubclass(kind, OF_CONTENT))

    def around(self, inner: Callable[..., Any], position: int, reason: Callable[[Any], str]) -> Callable[..., None]:
        """Return a handler that lets Celery's own do all but settle the message, and keeps that as a letter."""

        def handle(*args: Any) -> None:
            message = args[position]
            error = args[-1] if isinstance(args[-1], BaseException) else None
            held = HeldMessage(message)
            try:
                inner(*(held if each is message else each for each in args))
            except Exception:
                logger.exception("the failure of a message cannot be told")
            self.bury(message, reason(error), error)

        return handle

    def careful(self, handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a task handler that no message can break: what it raises would end the worker."""
        limit = self._undertaker.settings.max_message_bytes

        def on_message(message: Any) -> Any:
            size = len(message.body or b"")
            if size > limit:
                self.bury(message, letters.OVERSIZED, ValueError(f"{size} bytes, which is more than {limit}"))
                return None
            try:
                return handle(message)
            except self._broken:
                raise
            except Exception as error:
                if message.acknowledged:
                    raise
                logger.exception("a message cannot be taken")
                self.bury(message, letters.INVALID, error)
                return None

        return on_message

    def bury(self, message: Any, reason: str, error: BaseException | None) -> None:
        """Keep a message; acknowledge it then."""
        letter = Letter(
            id="",
            queue=self._undertaker.queue_of(message),
            reason=reason,
            message=OriginalMessage.of(message),
            error=describe(error) or "not a task message",
            worker=self._undertaker.hostname,
        )

        def settle() -> None:
            self._consumer.call_soon_ack(message.ack_log_error, logger, self._broken)

        self._undertaker.keeper.keep(letter, settle)


def _reason_of_decoding(error: BaseException) -> str:
    return letters.BAD_SIGNATURE if _is_signature(error) else letters.UNDECODABLE


def _reason_of_invalid(error: BaseException) -> str:
    if type(error).__name__ == "ContentDisallowed":
        return letters.UNDECODABLE
    return letters.BAD_SIGNATURE if _is_signature(error) else letters.INVALID


def _is_signature(error: BaseException | None) -> bool:
    for _ in range(5):
        if error is None:
            return False
        if type(error).__name__ in ("SecurityError", "InvalidSignature"):
            return True
        error = error.__cause__ or error.__context__
    return False
