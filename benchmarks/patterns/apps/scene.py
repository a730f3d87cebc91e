"""What every application of the SIGKILL table has: its settings, a ledger, and a caller that tries again.

It runs with the other libraries' interpreter too, so it imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

Call = Callable[[str, float], tuple[str, str]]
"""Publishes the task for (key, seconds to run); returns its id, or "" and why it was refused."""

LEDGER = "ledger"
PAUSE_SECONDS = 0.2
"""Between two tries of a caller that was refused."""


def settings() -> dict[str, Any]:
    """Return Celery's settings: its defaults, or (LATE=1) those that try the task of a lost process again."""
    late = os.environ.get("LATE") == "1"
    return {
        "broker_url": os.environ["CELERY_BROKER_URL"],
        "result_backend": os.environ["CELERY_RESULT_BACKEND"],
        "task_default_queue": os.environ["QUEUE"],
        "broker_connection_retry_on_startup": True,
        **({"task_acks_late": True, "task_retry_on_worker_lost": True} if late else {}),
    }


def work(key: str, task_id: str, seconds: float) -> str:
    """Write a start into the ledger, and wait, the first time; who comes again ends at once."""
    with _ledger() as ledger:
        again = any(json.loads(entry)["key"] == key for entry in ledger.lrange(LEDGER, 0, -1))
        ledger.rpush(LEDGER, json.dumps({"key": key, "id": task_id, "pid": os.getpid()}))
    time.sleep(0.0 if again else seconds)
    return key


def _ledger() -> redis.Redis:
    return redis.Redis.from_url(os.environ["LEDGER_URL"])


def main(call: Call, lock: str) -> None:
    """``call KEY SECONDS``: publish once. ``again KEY ID SINCE PATIENCE``: until another task than ID is accepted.

    ``lock`` is the pattern of the library's keys. Prints JSON.
    """
    command, key, *rest = sys.argv[1:]
    if command == "call":
        task_id, said = call(key, float(rest[0]))
        answer: dict[str, Any] = {"id": task_id, "said": said}
    else:
        answer = _again(call, key, rest[0], float(rest[1]), float(rest[2]))
        answer["locks"] = _locks(os.environ["LOCKS_URL"], lock)
    print(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # no handle of a result need unsubscribe


def _again(call: Call, key: str, dead: str, since: float, patience: float) -> dict[str, Any]:
    """Call until it is accepted; ``since`` is the time of the kill."""
    while True:
        task_id, said = call(key, 0.0)
        seconds = time.time() - since  # noqa: TID251 - two processes of one machine
        if task_id and task_id != dead:
            return {"accepted": True, "seconds": seconds, "id": task_id}
        if seconds > patience:
            return {"accepted": False, "seconds": seconds, "said": said or "the handle of the dead task"}
        time.sleep(PAUSE_SECONDS)


def _locks(url: str, pattern: str) -> dict[str, float]:
    """Return how long the library's locks last, in seconds; -1: for ever."""
    with redis.Redis.from_url(url) as client:
        found = {key.decode(): client.pttl(key) for key in client.scan_iter(match=pattern)}
    return {key: ttl if ttl < 0 else ttl / 1000 for key, ttl in found.items()}
