"""Threads, locks and sockets of the operating system, also where gevent or eventlet has put its own in their place.

A patched ``threading.Thread`` is a greenlet: it waits until the greenlet that runs lets go, which for a task that
computes may be minutes. Probes must be answered and leases renewed meanwhile, so the agent's threads are real ones. A
real thread must never wait for a patched lock: the greenlet that releases it could not wake another thread. Therefore
the agent's own locks and queues are the system's, and what its threads log is written by a greenlet of the worker's.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from _queue import SimpleQueue  # queue.SimpleQueue is replaced by gevent
from collections.abc import Callable
from typing import Any

LOG_SECONDS = 0.2
"""How often a greenlet writes what the agent's threads had to say."""


def _original(module: str, name: str) -> Any:
    """Return what the standard library's module had under that name before it was patched."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched(module):
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.already_patched:
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)


def is_green() -> bool:
    """Whether this process's threads are greenlets."""
    gevent = sys.modules.get("gevent.monkey")
    eventlet = sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


GREEN = is_green()
"""Read once: Celery patches before it imports anything of the application's."""

new_lock: Callable[[], Any] = _original("_thread", "allocate_lock")
"""Makes a lock of the system's; hold it for a few instructions only, and never across what may switch greenlets."""

_start_thread: Callable[..., Any] = _original("_thread", "start_new_thread")

Socket: Any = _original("socket", "socket")
"""A blocking socket. Its ``accept`` makes sockets of whatever class the module has by now: see ``accept`` below."""

_sleep: Callable[[float], None] = _original("time", "sleep")


def accept(listening: Any) -> tuple[Any, Any]:
    """Accept a connection; both sockets are the system's. Raises OSError."""
    descriptor, address = listening._accept()  # noqa: SLF001 - socket.socket.accept is this and a patched class
    return Socket(fileno=descriptor), address


class Thread:
    """A daemon thread that runs ``target``; the part of ``threading.Thread`` that the agent needs."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self._target = target
        self._name = name
        self._running: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; only once."""
        if not GREEN:
            self._thread = threading.Thread(target=self._target, name=self._name, daemon=True)
            self._thread.start()
            return
        self._running = new_lock()
        self._running.acquire()
        _start_thread(self._run, ())

    def is_alive(self) -> bool:
        """Whether it has begun and not ended."""
        if self._thread is not None:
            return self._thread.is_alive()
        return self._running is not None and self._running.locked()

    def join(self, timeout: float) -> None:
        """Wait for its end; with greenlets, nothing else runs meanwhile."""
        if self._thread is not None:
            self._thread.join(timeout)
        elif self._running is not None and self._running.acquire(timeout=timeout):
            self._running.release()

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._running.release()


def sleep(seconds: float) -> None:
    """Let this thread, and nothing else, wait."""
    _sleep(seconds)


class Logger:
    """A logger for code that runs in the agent's threads.

    Where threads are greenlets, logging's locks are too: a greenlet writes what these threads say, LOG_SECONDS late.
    """

    _later: Any = SimpleQueue()
    _writer: threading.Thread | None = None

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    @classmethod
    def start_writer(cls) -> None:
        """Begin to write what is said, from the worker's main thread; does nothing where threads are real."""
        if GREEN and cls._writer is None:
            cls._writer = threading.Thread(target=cls._write_forever, name="celery-patterns-log", daemon=True)
            cls._writer.start()

    def debug(self, message: str, *arguments: Any) -> None:
        """Log for developers."""
        self._log(logging.DEBUG, message, arguments)

    def info(self, message: str, *arguments: Any) -> None:
        """Log what is as it should be."""
        self._log(logging.INFO, message, arguments)

    def warning(self, message: str, *arguments: Any) -> None:
        """Log what somebody may want to look at."""
        self._log(logging.WARNING, message, arguments)

    def exception(self, message: str, *arguments: Any) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, message, arguments, exc_info=sys.exc_info())

    def _log(self, level: int, message: str, arguments: tuple[Any, ...], exc_info: Any = None) -> None:
        if GREEN:
            self._later.put((self._logger, level, message, arguments, exc_info))
        else:
            self._logger.log(level, message, *arguments, exc_info=exc_info)

    @classmethod
    def _write_forever(cls) -> None:
        while True:
            time.sleep(LOG_SECONDS)
            while not cls._later.empty():
                logger, level, message, arguments, exc_info = cls._later.get()
                logger.log(level, message, *arguments, exc_info=exc_info)
