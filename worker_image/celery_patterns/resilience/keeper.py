"""Keeps dead letters from a worker's main process: a message is settled with the broker once its letter is kept.

While the letters' store does not answer, the message stays unacknowledged and its letter waits in memory; if the worker
dies meanwhile, the broker delivers the message again. A flood of bad messages then fills the prefetch window and stops
consumption, which is right: nothing is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from celery_patterns import protocol
from celery_patterns.resilience.letters import Letter
from celery_patterns.store import StoreError

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = (0.2, 5.0)
"""First and longest pause between two attempts to keep a letter."""

WAITING_LETTERS: Final = 10_000
"""Of messages acknowledged early, which nothing holds back: beyond so many the oldest is logged and given up."""

BODY_CHARACTERS: Final = 4_000


class Letters(Protocol):
    """Where letters are kept."""

    def keep(self, letter: Letter, token: str) -> str:
        """Keep one, once for each token; returns its id. May raise StoreError or OSError."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """Equal to itself alone: it is removed by identity."""

    letter: Letter
    token: str
    settle: Callable[[], Any]


class Keeper:
    """One for each worker's main process; ``keep`` is called from its main loop or its pool's threads.

    Args:
        letters: Where they are kept.
        kept: Called with each letter that was kept, for metrics.
        given_up: Called with each that could not be, whose content is in the log alone.
    """

    def __init__(
        self,
        letters: Letters,
        kept: Callable[[Letter], Any] = lambda _: None,
        given_up: Callable[[Letter], Any] = lambda _: None,
    ) -> None:
        self._letters = letters
        self._tell_kept = kept
        self._tell_given_up = given_up
        self._waiting: deque[_Waiting] = deque()
        self._in_work: _Waiting | None = None
        """What the thread is keeping just now: it may be kept by the time somebody else looks."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def waiting(self) -> int:
        """How many letters could not be kept yet."""
        return len(self._waiting)

    def keep(self, letter: Letter, settle: Callable[[], Any] = lambda: None) -> None:
        """Keep a letter, now or as soon as that is possible; then call ``settle``. Never raises."""
        waiting = _Waiting(letter, protocol.new_token(), settle)
        with self._lock:
            behind = bool(self._waiting)
        if not behind and self._try(waiting, first=True):
            return
        with self._lock:
            self._waiting.append(waiting)
            if len(self._waiting) > WAITING_LETTERS:
                oldest = next(each for each in self._waiting if each is not self._in_work)
                self._waiting.remove(oldest)
                self._give_up(oldest)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)
                self._thread.start()

    def stop(self, within: float = 5.0) -> None:
        """Try once more for what waits; what cannot be kept is logged, and its message stays with the broker."""
        deadline = time.monotonic() + within
        self._stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(within)
        with self._lock:
            # If the thread still waits for the store's answer, it settles that letter itself, or nobody does.
            left = [each for each in self._waiting if each is not self._in_work]
        while left and time.monotonic() < deadline and self._try(left[0], first=False):
            self._waiting.remove(left.pop(0))
        for waiting in left:
            self._give_up(waiting)
        with self._lock:
            unanswered = self._in_work
        if unanswered is not None:
            self._give_up(unanswered, "may not be kept, the store has not answered")

    def _run(self) -> None:
        pause, longest = PAUSE_SECONDS
        while not self._stopping.wait(pause):
            pause = min(pause * 2, longest)
            while True:
                with self._lock:
                    if not self._waiting:
                        self._thread = None
                        return
                    first = self._in_work = self._waiting[0]
                kept = self._try(first, first=False)
                with self._lock:
                    self._in_work = None
                    if kept:
                        self._waiting.remove(first)
                if not kept:
                    break
                pause = PAUSE_SECONDS[0]

    def _try(self, waiting: _Waiting, *, first: bool) -> bool:
        letter = waiting.letter
        name = _name(letter)
        try:
            letter_id = self._letters.keep(letter, waiting.token)
        except (StoreError, OSError) as error:
            if first:
                logger.error("%s of %s cannot be kept as a dead letter yet: %s", name, letter.queue, error)  # noqa: TRY400
            return False
        except Exception:
            # It would fail the next time too: say everything there is to know, and let the message go.
            logger.exception("%s of %s cannot be kept as a dead letter", name, letter.queue)
            self._give_up(waiting)
            self._settle(waiting)
            return True
        logger.error(
            "%s of %s is a dead letter (%s): %s; see celery-patterns dlq show --queue %s %s",
            name,
            letter.queue,
            letter.reason,
            letter.error,
            letter.queue,
            letter_id,
        )
        self._tell_kept(letter)
        self._settle(waiting)
        return True

    def _settle(self, waiting: _Waiting) -> None:
        try:
            waiting.settle()
        except Exception:
            letter = waiting.letter
            logger.exception(
                "the message of a dead letter cannot be acknowledged: %s of %s", _name(letter), letter.queue
            )

    def _give_up(self, waiting: _Waiting, what: str = "is given up") -> None:
        letter = waiting.letter
        logger.critical(
            "a dead letter of %s %s (%s, %s): headers %r, body %.4000r",
            letter.queue,
            what,
            letter.reason,
            letter.error,
            letter.message.headers,
            letter.message.body[:BODY_CHARACTERS],
        )
        self._tell_given_up(letter)


def _name(letter: Letter) -> str:
    return f"{letter.message.task or 'message'}[{letter.message.task_id}]"
