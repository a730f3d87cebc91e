"""Letters of items of batches: their messages were acknowledged when they joined, so each is written anew."""

from __future__ import annotations

from typing import Any, Final

from kombu.serialization import dumps

from celery_patterns.resilience import child_letters
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.tasks.dead_letter import keeps

EMBEDDED: Final = ("callbacks", "errbacks", "chain", "chord")
"""What travels in a message's body beside the arguments."""


def keep_item(task: Any, item: Any, error: BaseException, reason: str, flush: Any) -> None:
    """Keep an item that has failed for good, if its task's failures are kept.

    Args:
        task: The batch's task, of which the item was a call.
        item: A ``celery_patterns.tasks.batching.Item``.
        error: Its error.
        reason: Of ``letters.ENDS_OF_TASKS``.
        flush: Celery's request of the flush that worked the item off.

    Raises:
        StoreError: If it cannot be kept; the item is to stay where it is.
    """
    settings = ResilienceSettings.of_app(task.app)
    if not keeps(task, reason, settings.failures):
        return
    embed = {name: item.request.get(name) for name in EMBEDDED}
    content = [list(item.args), item.kwargs, embed]
    kind, encoding, body = dumps(content, serializer=task.app.conf.task_serializer)  # type: ignore[no-untyped-call]
    headers = {name: value for name, value in item.request.items() if name not in EMBEDDED}
    message = OriginalMessage(
        body=body.encode() if isinstance(body, str) else body,
        headers={**headers, "id": item.id, "task": task.name, "lang": "py"},
        properties={"correlation_id": item.id},
        content_type=kind,
        content_encoding=encoding,
    )
    letter = Letter(
        id="",
        queue=str((flush.delivery_info or {}).get("routing_key") or task.app.conf.task_default_queue),
        reason=reason,
        message=message,
        error=describe(error),
        attempts=item.tries,
        worker=str(flush.hostname or ""),
        original=False,
    )
    letters_of(task.app, settings).keep(letter, f"{item.id}:{item.tries}")
    child_letters.tell(letter.queue, reason)
