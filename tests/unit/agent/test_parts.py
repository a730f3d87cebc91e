"""Parts of the agent that need no worker to be tried."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.asynchronous.timer import Timer

from celery_patterns.agent.announcer import MESSAGE_BYTES, _messages
from celery_patterns.agent.liveness import Liveness
from celery_patterns.agent.requests import FollowedRequest, follow


def consumer(hub: object) -> SimpleNamespace:
    return SimpleNamespace(hub=hub, timer=Timer())  # type: ignore[no-untyped-call]


def test_loop_that_turns_is_alive_and_one_that_stopped_is_not() -> None:
    now = 1000.0
    liveness = Liveness(limit_seconds=120, clock=lambda: now)
    assert liveness.stalled_seconds() is None, "not before the loop has started"
    watched = consumer(hub=object())
    liveness.watch(watched, busy_loop=False)
    now += 119
    assert liveness.stalled_seconds() is None
    watched.timer.queue[0].entry()  # the loop turns
    now += 119
    assert liveness.stalled_seconds() is None
    now += 2
    assert liveness.stalled_seconds() == 121
    liveness.rest()
    assert liveness.stalled_seconds() is None, "not while it reconnects"


@pytest.mark.parametrize(("hub", "busy_loop"), [(None, False), (object(), True)], ids=["no event loop", "solo"])
def test_loop_that_runs_tasks_itself_is_never_judged(hub: object, *, busy_loop: bool) -> None:
    now = 0.0
    liveness = Liveness(limit_seconds=1, clock=lambda: now)
    liveness.watch(consumer(hub), busy_loop=busy_loop)
    now = 1e6
    assert liveness.stalled_seconds() is None


def test_announcements_are_joined_into_messages_of_a_bounded_size() -> None:
    text = '"' + "x" * (MESSAGE_BYTES // 3) + '"'
    messages = _messages([text] * 5)
    assert messages == [f"[{text},{text}]", f"[{text},{text}]", f"[{text}]"]
    assert _messages([]) == []


def test_own_request_class_of_a_task_is_kept() -> None:
    class Own:
        """A task's own Request."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self._request_dict: dict[str, Any] = {}

    agent: Any = SimpleNamespace()
    followed = follow(Own, agent)
    assert issubclass(followed, Own)
    assert issubclass(followed, FollowedRequest)
    assert follow(followed, agent) is followed
    assert isinstance(followed(), Own)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("celery_patterns.agent.__main__", ["celery", "kombu", "redis", "prometheus_client", "asyncio"]),
        ("celery_patterns.jsonpath", ["celery", "kombu", "redis", "pydantic"]),
        ("celery_patterns.agent.autoload", ["pydantic", "kubernetes", "celery_operator", "prometheus_client"]),
    ],
)
def test_module_imports_nothing_heavy(module: str, heavy: list[str]) -> None:
    code = (
        f"import sys, importlib; importlib.import_module({module!r}); print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
