"""Turns the agent on in the worker that imports this module.

``celery -A APP worker -I celery_patterns.agent.autoload``: Celery imports the modules of ``-I`` before it sends
``worker_init`` and builds its steps, so this joins in time with signals alone; ``celery`` stays the process that
Kubernetes starts and signals. Children that are spawned rather than forked import it again, since Celery passes the
list on.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from typing import Any

from celery import VERSION, current_app, signals

from celery_patterns import protocol
from celery_patterns.agent import result_patience
from celery_patterns.agent.guard import Guard
from celery_patterns.agent.settings import AgentSettings
from celery_patterns.agent.steps import AgentStep, ConsumingStep
from celery_patterns.agent.worker_agent import WorkerAgent

_agents: list[WorkerAgent] = []
"""The agent of this process's worker; a forked child finds its parent's here."""


def join_worker(sender: Any, **_: Any) -> None:
    """Add the agent's steps to the worker that is about to build its own.

    Raises:
        SystemExit: If a setting is wrong. Celery passes over any other error of a signal's receiver, and the worker
            would run without what its pool watches and scales it by.
    """
    try:
        settings = AgentSettings.from_environment()
    except ValueError as error:
        raise SystemExit(f"the agent cannot start: {error}") from error
    agent = sender.celery_patterns_agent = WorkerAgent(sender, settings)
    _agents[:] = [agent]
    sender.app.steps["worker"].add(AgentStep)
    sender.app.steps["consumer"].add(ConsumingStep)
    atexit.register(agent.stop)


def note_received(sender: Any, request: Any, **_: Any) -> None:
    """A message became a task."""
    queue = str((request.delivery_info or {}).get("routing_key") or "celery")
    sender.controller.celery_patterns_agent.task_received(str(request.name), queue)


def note_ready(sender: Any, **_: Any) -> None:
    """The worker consumes."""
    sender.controller.celery_patterns_agent.ready()


def note_stopping(**_: Any) -> None:
    """The worker was told to end."""
    for agent in _agents:
        agent.stopping()


def send_the_last(sender: Any, **_: Any) -> None:
    """The pool has ended: what it announced last must leave."""
    sender.celery_patterns_agent.stop()


def join_child(sender: Any, **_: Any) -> None:
    """Guard the tasks of a pool's process; solo sends this signal in the main process, where it means nothing new."""
    parent = _agents[0] if _agents else None
    if parent is not None and parent.pid == os.getpid():
        return
    if parent is not None and parent.server is not None:
        parent.server.close_in_child()
    guard = Guard(current_app._get_current_object(), str(sender), AgentSettings.from_environment())  # noqa: SLF001
    guard.wrap_all()
    guard.prepare()
    result_patience.install(type(current_app.backend))


def announce_unknown(sender: Any, message: Any, name: str, **_: Any) -> None:
    """A message for a task that this worker does not know; Celery has stored the failure."""
    agent: WorkerAgent = sender.controller.celery_patterns_agent
    agent.task_ended("unknown", protocol.FAILURE, None)
    text = f"this worker knows no task named {name!r}: is its module imported by the application?"
    agent.refused(message.headers or {}, "NotRegistered", text, protocol.FAILURE)


def announce_rejected(sender: Any, message: Any, exc: BaseException | None, **_: Any) -> None:
    """A message that is no valid task message; Celery has thrown it away."""
    agent: WorkerAgent = sender.controller.celery_patterns_agent
    agent.task_ended("invalid", protocol.REJECTED, None)
    agent.refused(message.headers or {}, type(exc).__name__, str(exc or "not a task message"), protocol.REJECTED)


signals.worker_init.connect(join_worker, weak=False)
signals.task_received.connect(note_received, weak=False)
signals.worker_ready.connect(note_ready, weak=False)
signals.worker_shutting_down.connect(note_stopping, weak=False)
signals.worker_shutdown.connect(send_the_last, weak=False)
signals.worker_process_init.connect(join_child, weak=False)
signals.task_unknown.connect(announce_unknown, weak=False)
signals.task_rejected.connect(announce_rejected, weak=False)

# What needs Celery 5.7, Python 3.11 and Redis stays away where the agent was injected into an image without them.
if VERSION[:2] >= (5, 7) and sys.version_info >= (3, 11) and importlib.util.find_spec("redis") is not None:
    from celery_patterns.tasks import joining

    joining.install()
