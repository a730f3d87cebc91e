"""What the agent's thread does while the result backend is away."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from celery_patterns.agent.announcer import Announcer, Conclusion
from servers import eventually


class Away:
    """A result backend that does not answer, and counts how often it was asked."""

    key_prefix = ""

    def __init__(self) -> None:
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def ask(*_: object) -> None:
            self.asked += 1
            raise RedisConnectionError("away")

        return ask


def test_worker_is_looked_after_while_an_end_cannot_be_announced() -> None:
    """Otherwise a drain would not see that nothing runs any more."""
    away, looks = Away(), []

    def look() -> None:
        looks.append(away.asked)
        if len(looks) == 1:
            raise RuntimeError("one look goes wrong")

    announcer = Announcer(lambda: away, worker="w", lease_seconds=30, more_at_hand=lambda: False, on_tick=look)  # type: ignore[arg-type,return-value]
    announcer.concluded(Conclusion(header={"uid": "u", "step": "s"}, task_id="t", key="k", token="x", state="SUCCESS"))
    announcer.start()
    try:
        eventually(lambda: looks and looks[-1] >= 3)
    finally:
        announcer.stop()
