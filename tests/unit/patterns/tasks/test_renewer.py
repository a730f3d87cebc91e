"""Which lease a worker's main process asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery_patterns.tasks.renewer import Renewer


def test_each_execution_is_renewed_for_its_own_lease() -> None:
    """A short one beside a long one: after a loss it is to be free as soon as its policy says."""
    asked: dict[str, int] = {}

    def run(_: object, keys: list[str], arguments: list[Any]) -> list[int]:
        asked.update({key + token: arguments[0] for key, token in zip(keys, arguments[2:], strict=True)})
        return [1] * len(keys)

    store: Any = SimpleNamespace(run=run, key=lambda kind, name: f"{kind}:{name}:")
    renewer = Renewer(store)
    for number, lease in enumerate((1.0, 3600.0, 30.0, 1.0)):
        renewer._held[f"task:{number}:", f"t{number}"] = lease
    renewer.renew()
    assert asked == {"task:0:t0": 1_000, "task:1:t1": 3_600_000, "task:2:t2": 30_000, "task:3:t3": 1_000}
