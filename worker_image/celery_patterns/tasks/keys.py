"""Which calls of a task belong together: a template over its arguments."""

from __future__ import annotations

import hashlib
import inspect
import json
import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from typing_extensions import override

from celery_patterns.store.names import quote
from celery_patterns.tasks.policy import PolicyError


class KeyUnreadable(LookupError):  # noqa: N818 - it says what the key is
    """A key's template names something that this call's arguments do not have."""


class _Quoting(string.Formatter):
    """Fills a template so that two different sets of values never make one key.

    Args:
        separators: The characters that stand between the template's fields.
    """

    def __init__(self, separators: str = "") -> None:
        self._separators = separators

    @override
    def format_field(self, value: Any, format_spec: str) -> str:
        return quote(super().format_field(value, format_spec), self._separators)


_parse = string.Formatter().parse


@lru_cache(maxsize=1024)
def _formatter(template: str) -> _Quoting:
    parts = list(_parse(template))
    fields = [number for number, (_, name, _, _) in enumerate(parts) if name is not None]
    between = (parts[number][0] for number in fields[1:])
    return _Quoting("".join(sorted({character for text in between for character in text})))


def check_template(option: str, template: Any, task: Any) -> None:
    """Check a template against a task's parameters.

    Raises:
        PolicyError: If it is malformed, or names a parameter that the task has not.
    """
    if template is None:
        return
    try:
        parts = list(_parse(template))
        fields = [name for _, name, _, _ in parts if name is not None]
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"{option}: expected a template over the task's arguments such as '{{order_id}}', got {template!r}: {error}"
        ) from None
    if any(name is not None and not text for text, name, _, _ in parts[1:]):
        raise PolicyError(
            f"{option}: {template!r} has two fields with nothing between them, so that different calls could have one "
            "key: write a separator such as ':'"
        )
    signature = task_signature(task)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()):
        return
    for field in fields:
        first = field.split(".")[0].split("[")[0]
        if first not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise PolicyError(f"{option}: {template!r} names {first!r}; the parameters of {task.name} are: {known}")


def render(template: str | None, arguments: Mapping[str, Any]) -> str:
    """Return the key of a call; without a template, a hash of all its arguments.

    Raises:
        KeyUnreadable: If an argument lacks what the template names.
    """
    if template is None:
        text = json.dumps(arguments, sort_keys=True, default=repr, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]
    try:
        return _formatter(template).vformat(template, (), arguments)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise KeyUnreadable(f"the key {template!r} cannot be read from the arguments: {error!r}") from error


@lru_cache(maxsize=4096)
def _signature(run: Any, *, drop_first: bool) -> inspect.Signature:
    signature = inspect.signature(run)
    if drop_first:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def task_signature(task: Any) -> inspect.Signature:
    """Return the signature by which a task is called, without ``self`` (``task`` is the task or its class)."""
    cls = task if isinstance(task, type) else type(task)
    declared = inspect.getattr_static(cls, "run")
    if isinstance(declared, staticmethod):
        return _signature(declared.__func__, drop_first=False)
    return _signature(declared, drop_first=True)


def bind_arguments(task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by parameter name, defaults filled in.

    Raises:
        TypeError: If they do not fit the task, as a call would.
    """
    bound = task_signature(task).bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(parameter.name))
    return arguments
