"""A store whose Lua sees a clock that the test moves: the scripts are the real ones, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery_patterns.store import Script, Store
from celery_patterns.store.script import Argument

CLOCK_KEYS = "'test-clock-s', 'test-clock-us'"


class ClockedStore(Store):
    """Runs each script with ``TIME`` read from two keys."""

    now_ms = 0

    def set_clock(self, now_ms: int) -> None:
        """Set the time that scripts see."""
        self.now_ms = now_ms
        self.client.mset({"test-clock-s": now_ms // 1000, "test-clock-us": now_ms % 1000 * 1000})

    def advance(self, ms: int) -> None:
        """Move the time on, or back."""
        self.set_clock(self.now_ms + ms)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:  # type: ignore[explicit-override]
        """Run the script by the test's clock."""
        source = script.source.replace("redis.call('TIME')", f"redis.call('MGET', {CLOCK_KEYS})")
        return super().run(Script(source, script.name), keys, arguments)

    def without_ttl(self) -> list[bytes]:
        """Return the keys that would stay for ever."""
        keys: list[bytes] = self.client.keys("{*")
        return [key for key in keys if self.client.pttl(key) < 0]


def play(
    stage: Any, clocked: ClockedStore, events: Iterable[tuple[Any, ...]], check: Callable[[], None] | None = None
) -> None:
    """Let each event happen: the stage's method of its name, or, for ``pass``, so many milliseconds.

    Args:
        stage: Drives the scripts beside its model.
        clocked: The store whose scripts it drives.
        events: For each its name and its arguments.
        check: What is to hold after each; None: ``stage.check``.
    """
    for name, *arguments in events:
        if name == "pass":
            clocked.advance(*arguments)
        else:
            getattr(stage, name)(*arguments)
        (check or stage.check)()
