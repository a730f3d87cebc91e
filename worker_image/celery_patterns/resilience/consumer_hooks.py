"""Hooks of a worker's consumer: messages that are no tasks become dead letters instead of being thrown away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_patterns.resilience import decompression, letters, message_form, skew
from celery_patterns.resilience.decompression import OversizedMessage, too_large
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe
from celery_patterns.tasks.patterns import patterns_of

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
    decompression.install(undertaker.settings.max_message_bytes)
    skew.look(patterns_of(consumer.app).store)
    # Where each handler has the message among its arguments; an error, if there is one, is the last.
    consumer.on_decode_error = hooks.around(consumer.on_decode_error, 0, _reason_of_decoding, silent=True)
    consumer.on_unknown_message = hooks.around(consumer.on_unknown_message, 1, lambda _: letters.INVALID)
    consumer.on_unknown_task = hooks.around(consumer.on_unknown_task, 1, lambda _: letters.UNKNOWN_TASK)
    consumer.on_invalid_task = hooks.around(consumer.on_invalid_task, 1, _reason_of_invalid)
    if getattr(consumer, "task_consumer", None) is not None:
        # It was made before, with Celery's own handler, which throws away what cannot be decompressed.
        consumer.task_consumer.on_decode_error = consumer.on_decode_error
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

    def around(
        self, inner: Callable[..., Any], position: int, reason: Callable[[Any], str], *, silent: bool = False
    ) -> Callable[..., None]:
        """Return a handler that lets Celery's own do all but settle the message, and keeps that as a letter.

        ``silent``: Celery's own tells nobody that it rejects the message, so this does.
        """

        def handle(*args: Any) -> None:
            message = args[position]
            error = args[-1] if isinstance(args[-1], BaseException) else None
            held = HeldMessage(message)
            try:
                inner(*(held if each is message else each for each in args))
            except Exception:
                logger.exception("the failure of a message cannot be told")
            why = reason(error)
            if silent:
                signals.task_rejected.send(sender=self._consumer, message=message, exc=error)
            self._tell_caller(message, why, error)
            self.bury(message, why, error)

        return handle

    def careful(self, handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a task handler that no message can break: what it raises would end the worker."""

        def on_message(message: Any) -> Any:
            try:
                self._inspect(message)
                return handle(message)
            except self._broken:
                raise
            except Exception as error:
                if message.acknowledged:
                    raise
                if not isinstance(error, (message_form.MalformedMessage, OversizedMessage)):
                    logger.exception("a message cannot be taken")
                self._consumer.on_invalid_task(None, message, error)
                return None

        return on_message

    def _inspect(self, message: Any) -> None:
        """Look at a message before Celery takes it.

        Raises:
            OversizedMessage: If it is too large to be decoded here.
            MalformedMessage: If it names a task that is known and Celery could not run it.
        """
        size, limit = len(message.body or b""), self._undertaker.settings.max_message_bytes
        if size > limit:
            raise OversizedMessage(too_large(f"{size} bytes", limit))
        headers = message.headers
        try:
            payload = message.payload
        except Exception:  # noqa: BLE001 - Celery meets the same, and has a handler for it
            return
        fields = headers if "task" in headers else payload
        if isinstance(fields, Mapping) and "task" in fields:
            name = fields["task"]
            if not isinstance(name, str) or name in self._consumer.strategies:
                message_form.check(headers, payload)

    def _tell_caller(self, message: Any, reason: str, error: BaseException | None) -> None:
        """Store the failure of a message whose caller would else wait for ever; best effort.

        Not where messages are signed: anybody could write a failure for any id.
        """
        app, headers = self._consumer.app, message.headers
        task_id = headers.get("id")
        told = reason in (letters.INVALID, letters.OVERSIZED, letters.UNDECODABLE)
        if error is None or not told or app.conf.task_serializer == "auth" or headers.get("ignore_result"):
            return
        if isinstance(task_id, str) and task_id:
            try:
                app.backend.mark_as_failure(task_id, error)
            except Exception:
                logger.exception("the failure of %s cannot be stored", task_id)

    def _explain(self, message: Any, reason: str, error: BaseException | None) -> str:
        """Return what is wrong, in words that say what to do where the error's own do not."""
        if reason == letters.UNKNOWN_TASK:
            return (
                "NotRegistered: this worker knows no task of this name: is its module imported by the application, "
                "or is the worker of an old version?"
            )
        if type(error).__name__ == "ContentDisallowed":
            return f"{describe(error)}; accept_content is {list(self._consumer.app.conf.accept_content)} here"
        compression = message.headers.get("compression")
        if compression and message.errors and (not isinstance(compression, str) or isinstance(error, LookupError)):
            return f"DecodeError: this worker knows no compression {compression!r}"
        return describe(error) or "no task message: neither its headers nor its body name a task"

    def bury(self, message: Any, reason: str, error: BaseException | None) -> None:
        """Keep a message; acknowledge it then."""
        letter = Letter(
            id="",
            queue=self._undertaker.queue_of(message),
            reason=reason,
            message=OriginalMessage.of(message),
            error=self._explain(message, reason, error),
            worker=self._undertaker.hostname,
        )

        def settle() -> None:
            self._consumer.call_soon_ack(message.ack_log_error, logger, self._broken)

        self._undertaker.keeper.keep(letter, settle)


def _reason_of_decoding(error: BaseException) -> str:
    if isinstance(error, OversizedMessage):
        return letters.OVERSIZED
    return letters.BAD_SIGNATURE if _is_signature(error) else letters.UNDECODABLE


def _reason_of_invalid(error: BaseException) -> str:
    if isinstance(error, OversizedMessage):
        return letters.OVERSIZED
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
