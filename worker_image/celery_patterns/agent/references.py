"""Arguments that stand for the results of other steps: found in a message, read from the result backend, replaced.

Works with every result backend; on Redis all values a message refers to are read in one command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from celery_patterns import jsonpath, protocol

READ_AT_ONCE = 1000
"""Results read by one command: a reference to a large fan-out must not block Redis for long."""

ReadResults = Callable[[Sequence[str]], list[dict[str, Any] | None]]
"""From task ids to result records (``{"status": ..., "result": ...}``), None for one that is not stored."""


class ReferenceUnavailable(Exception):  # noqa: N818 - the contract's name for it
    """An argument refers to a result that is not there: expired, never stored, not a success, or without that path."""


def resolve(args: Any, kwargs: Any, read: ReadResults) -> tuple[Any, Any, bool]:
    """Return the arguments with every reference replaced by its value, and whether there was any.

    Raises:
        ReferenceUnavailable: Naming the step and index of the first value that cannot be had.
    """
    found: list[protocol.ResultReference] = []
    _collect(args, found)
    _collect(kwargs, found)
    if not found:
        return args, kwargs, False
    wanted = list(dict.fromkeys(task_id for reference in found for task_id in reference.task_ids() if task_id))
    records: dict[str, dict[str, Any] | None] = {}
    for start in range(0, len(wanted), READ_AT_ONCE):
        chunk = wanted[start : start + READ_AT_ONCE]
        records.update(zip(chunk, read(chunk), strict=True))
    return _replace(args, records), _replace(kwargs, records), True


def _collect(value: Any, found: list[protocol.ResultReference]) -> None:
    if isinstance(value, dict):
        reference = _reference(value)
        if reference is not None:
            found.append(reference)
            return
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)


def _reference(value: Any) -> protocol.ResultReference | None:
    try:
        return protocol.ResultReference.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ReferenceUnavailable(f"the message holds a malformed reference: {error}") from error


def _replace(value: Any, records: dict[str, dict[str, Any] | None]) -> Any:
    if isinstance(value, dict):
        reference = _reference(value)
        if reference is not None:
            return _value(reference, records)
        return {key: _replace(item, records) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(item, records) for item in value]
    return value


def _value(reference: protocol.ResultReference, records: dict[str, dict[str, Any] | None]) -> Any:
    items = [
        None if task_id is None else _item(reference, reference.start + offset, records.get(task_id))
        for offset, task_id in enumerate(reference.task_ids())
    ]
    whole = items[0] if reference.stop is None else items
    if reference.path is None:
        return whole
    try:
        return jsonpath.select(whole, reference.path)
    except jsonpath.PathError as error:
        raise ReferenceUnavailable(f"the result of step {reference.step!r}: {error}") from error


def _item(reference: protocol.ResultReference, index: int, record: dict[str, Any] | None) -> Any:
    where = f"the result of step {reference.step!r}, index {index}, of run {reference.run}"
    if record is None:
        raise ReferenceUnavailable(
            f"{where} is not in the result backend: it has expired (see the setting result_expires) or was deleted"
        )
    if record.get("status") != protocol.SUCCESS:
        raise ReferenceUnavailable(f"{where} is not a success: its state is {record.get('status')}")
    return record.get("result")
