"""What server-side apply does when there is one field manager: fields it no longer sends go, others' fields stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def apply_merge(live: Mapping[str, Any], before: Mapping[str, Any], applied: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``live`` as it is after ``applied``, where ``before`` is what the same manager applied last.

    Objects merge field by field; lists and scalars are replaced whole: a list that was sent belongs to its sender.
    """
    merged = {key: copy.deepcopy(value) for key, value in live.items() if key in applied or key not in before}
    for key, value in before.items():
        current = live.get(key)
        if key not in applied and isinstance(value, Mapping) and isinstance(current, Mapping):
            rest = apply_merge(current, value, {})
            if rest:
                merged[key] = rest
    for key, value in applied.items():
        current = live.get(key)
        if isinstance(value, Mapping) and isinstance(current, Mapping):
            owned = before.get(key)
            merged[key] = apply_merge(current, owned if isinstance(owned, Mapping) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
