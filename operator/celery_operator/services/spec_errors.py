"""Turns what pydantic says of a resource into the sentence that its author reads."""

from __future__ import annotations

from pydantic import ValidationError

from celery_operator.api.conditions import Reason
from celery_operator.api.validation import InvalidResource
from celery_operator.domain.errors import SpecError

SHOWN = 3
"""Mistakes named at once; the rest is counted."""


def spec_error(error: SpecError | ValidationError | InvalidResource) -> SpecError:
    """Return a SpecError for each; of a ValidationError the first mistakes, each with the path of its field."""
    if isinstance(error, SpecError):
        return error
    if isinstance(error, InvalidResource):
        return SpecError(Reason.INVALID_SPEC, str(error))
    mistakes = error.errors(include_url=False, include_input=False)
    said = "; ".join(f"{_path(mistake['loc'])}: {mistake['msg']}" for mistake in mistakes[:SHOWN])
    more = f" (and {len(mistakes) - SHOWN} more)" if len(mistakes) > SHOWN else ""
    return SpecError(Reason.INVALID_SPEC, said + more)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "the resource"
