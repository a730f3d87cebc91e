"""What all checks of a spec share: how errors are worded, exactly-one-of, and the bounds of literals."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from celery_operator.api.conditions import Reason
from celery_operator.api.model import ApiModel
from celery_operator.domain.errors import SpecError
from celery_patterns.protocol import REFERENCE_KEY

LITERAL_BYTES = 65_536
ALL_LITERALS_BYTES = 262_144
"""As JSON. A workflow is kept in etcd several times (spec, managed fields, checkpoint) within 1.5 MiB."""


def invalid(path: str, problem: str) -> SpecError:
    """Return the error for a value, or a combination of values, that is wrong."""
    return SpecError(Reason.INVALID_SPEC, f"{path}: {problem}")


def unknown_step(path: str, name: str, known: Iterable[str]) -> SpecError:
    """Return the error for a step that does not exist; it names one that is written alike."""
    alike = difflib.get_close_matches(name, list(known), n=1)
    hint = f" (did you mean {alike[0]!r}?)" if alike else ""
    return SpecError(Reason.UNKNOWN_STEP, f"{path}: there is no step {name!r}{hint}")


def field_name(model: ApiModel, name: str) -> str:
    """Return a field's name as it stands in YAML."""
    return type(model).model_fields[name].alias or name


def one_of(path: str, model: ApiModel, names: Sequence[str]) -> None:
    """Raise SpecError unless exactly one of the fields is set."""
    found = [name for name in names if getattr(model, name) is not None]
    if len(found) != 1:
        words = [field_name(model, name) for name in names]
        choice = f"{', '.join(words[:-1])} and {words[-1]}"
        seen = " and ".join(field_name(model, name) for name in found) if found else "none"
        raise invalid(path, f"set exactly one of {choice}; found {seen}")


class Literals:
    """Takes in the literals of a spec, and refuses what is no JSON or too large."""

    def __init__(self) -> None:
        self._bytes = 0

    def take(self, path: str, value: Any) -> Any:
        """Return the value as JSON holds it. Raises SpecError."""
        try:
            text = json.dumps(value, allow_nan=False, separators=(",", ":"))
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise invalid(path, f"is not a JSON value: {error}") from error
        if size > LITERAL_BYTES:
            raise invalid(path, f"has {size} bytes as JSON; a literal may have {LITERAL_BYTES}: let a task read it")
        self._bytes += size
        if self._bytes > ALL_LITERALS_BYTES:
            raise invalid(path, f"with this value the literals exceed {ALL_LITERALS_BYTES} bytes: let a task read them")
        if REFERENCE_KEY in text:
            raise invalid(path, f"must not hold the key {REFERENCE_KEY!r}: it marks references to results")
        return json.loads(text)
