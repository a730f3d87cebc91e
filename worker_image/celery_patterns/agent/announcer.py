"""The thread of the main process that talks to the result backend: announcements out, claims renewed and concluded.

The worker's own loop only puts a value into a queue; everything that waits for Redis happens here. An end is announced
at once while the worker has little to say; when tasks end by the hundred a second, announcements gather for a moment,
because the thread shares the interpreter with the worker's loop. What nobody waits for (starts, the claims of what has
ended, leases) is written on the tick.
"""

from __future__ import annotations

import json
import time
from _queue import Empty, SimpleQueue  # queue.SimpleQueue is replaced by gevent
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol
from celery_patterns.agent import native
from celery_patterns.agent.next_retry import NextRetry
from celery_patterns.agent.redis_errors import RedisError
from celery_patterns.agent.store import ClaimStore

logger = native.Logger(__name__)

TICK_SECONDS = 0.1
"""How often the thread wakes without being called: STARTED is announced for what is running by then."""
STARTED_AFTER_SECONDS = 0.05
"""A task that is over sooner is never announced as started: its end says it all, in half the messages."""
BATCH = 500
"""Announcements gathered into one round trip."""
MESSAGE_BYTES = 256 * 1024
"""One message of the channel: far below Redis' limit for the output buffer of a slow subscriber (32 MiB)."""
KEEP_UNSENT = 20_000
"""Announcements kept while the store is away; beyond it the oldest go, and the operator's sweep finds those results."""
GATHER_SECONDS = 0.01
"""How long announcements gather while the worker is busy: several share one command, and a step waits half as long."""
BUSY_COUNT, BUSY_SECONDS = 16, 0.08
"""Busy: this many ends within this time (200 a second), and more work at hand or all of one step, as in a fan-out. A
chain has never more work at hand, and its ends are of as many steps."""
LOOKED_AT_CHARACTERS = 16 * protocol.MESSAGE_CHARACTERS
"""How much of an exception's text is searched for credentials: it may be as long as a task's data."""
RETRY_SECONDS = 0.5
STOP_SECONDS = 3.0
"""How long the end of the worker waits for the last announcements."""
RENEWALS_PER_LEASE = 3


@dataclass(slots=True)
class RunningAttempt:
    """A workflow's task that this worker has begun."""

    header: dict[str, Any]
    task_id: str
    key: str
    token: str
    since: float
    """time.monotonic() when it began."""
    announced: bool = False


@dataclass(slots=True)
class Conclusion:
    """The end of one delivery of a workflow's task: what to announce (if anything) and what becomes of its claim."""

    header: dict[str, Any]
    task_id: str
    key: str
    token: str
    state: str | None
    """None announces nothing."""
    claim: str = protocol.CLAIM_DONE
    """The claim's new state, or RELEASE."""
    encoded: str | None = None
    size: int = 0
    """-1: ask the backend."""
    exception: str = ""
    message: str = ""
    retry: NextRetry | None = None
    """Celery's own retry that the main process has published, of a task that could not say so itself."""


class Announcer:
    """Publishes conclusions and starts, and keeps the claims of what runs.

    Args:
        store: Makes this thread's own connection.
        worker: The node name.
        lease_seconds: The claims' lease.
        more_at_hand: Whether the worker holds further tasks.
        on_tick: Called about ten times a second from the thread, whatever the store does.
    """

    def __init__(
        self,
        store: Callable[[], ClaimStore] | None,
        *,
        worker: str,
        lease_seconds: float,
        more_at_hand: Callable[[], bool],
        on_tick: Callable[[], None],
    ) -> None:
        self._make_store = store
        self._store: ClaimStore | None = None
        self._worker = json.dumps(worker)
        self._renew_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._more_at_hand = more_at_hand
        self._on_tick = on_tick
        self._queue: SimpleQueue[Conclusion | None] = SimpleQueue()
        self._running: dict[str, RunningAttempt] = {}
        self._thread = native.Thread(self._run, name="celery-patterns-announcer")
        self._stopping = False
        self._unsent: list[Conclusion] = []
        self._unconcluded: list[Conclusion] = []
        self._ends: deque[tuple[float, str, str]] = deque(maxlen=BUSY_COUNT)
        """Of the last ends: time.monotonic(), the workflow's uid, the step."""
        self._ticked_at = self._renewed_at = time.monotonic()

    @property
    def key_prefix(self) -> str:
        """The result backend's effective key prefix."""
        return self._connected().key_prefix if self._make_store is not None else ""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, for STOP_SECONDS at most."""
        if self._thread.is_alive() and not self._stopping:
            self._stopping = True
            self._queue.put(None)
            self._thread.join(STOP_SECONDS)

    def begun(self, attempt: RunningAttempt) -> None:
        """Note that an attempt runs: it is announced as started if it lasts, and its claim is renewed."""
        if self._make_store is not None:
            self._running[attempt.token] = attempt

    def concluded(self, conclusion: Conclusion) -> None:
        """Announce the end of an attempt."""
        if self._make_store is not None:
            self._running.pop(conclusion.token, None)
            self._queue.put(conclusion)

    # ---- the thread

    def _run(self) -> None:
        while True:
            last = self._gather(RETRY_SECONDS if self._unsent else TICK_SECONDS)
            now = time.monotonic()
            due = last or now - self._ticked_at >= TICK_SECONDS
            if self._make_store is not None:
                self._tell(now, due=due, last=last)
            if due:
                self._ticked_at = now
                self._look_around()
            if last:
                return

    def _look_around(self) -> None:
        # Apart from the store's work: a worker drains, too, while its result backend is away.
        try:
            self._on_tick()
        except Exception:
            logger.exception("the agent met an error of its own while it looked after the worker")

    def _tell(self, now: float, *, due: bool, last: bool) -> None:
        try:
            self._announce()
            if due:
                self._tick(now, last=last)
        except (RedisError, OSError) as error:
            self._keep_some(error)
        except Exception:
            logger.exception("the agent's announcer met an error of its own; %d announcements lost", len(self._unsent))
            self._unsent.clear()

    def _gather(self, timeout: float) -> bool:
        """Wait for a conclusion and take all that are there; True at the end of the worker."""
        try:
            item = self._queue.get(timeout=timeout)
            if self._is_busy():
                native.sleep(GATHER_SECONDS)
            while item is not None:
                self._unsent.append(item)
                self._ends.append((time.monotonic(), item.header["uid"], item.header["step"]))
                if len(self._unsent) >= BATCH:
                    return False
                item = self._queue.get_nowait()
        except Empty:
            return False
        return True

    def _is_busy(self) -> bool:
        often = len(self._ends) == BUSY_COUNT and time.monotonic() - self._ends[0][0] < BUSY_SECONDS
        return often and (self._more_at_hand() or len({(uid, step) for _, uid, step in self._ends}) == 1)

    def _announce(self) -> None:
        """Publish what has ended."""
        if not self._unsent:
            return
        store = self._connected()
        for message in _messages([self._text(c, size) for c, size in _with_sizes(store, self._unsent)]):
            store.publish(message)
        self._unconcluded += [c for c in self._unsent if c.token]
        self._unsent.clear()

    def _tick(self, now: float, *, last: bool) -> None:
        """Do what can wait: claims of what has ended, starts, leases."""
        while self._unconcluded:
            chunk = self._unconcluded[:BATCH]
            for c in chunk:
                if c.retry is not None:
                    self._connected().note_retry(c.key, c.token, c.retry)
            self._connected().conclude([(c.key, c.token, _claim_state(c)) for c in chunk])
            del self._unconcluded[:BATCH]
        started = [] if last else self._to_start(now)
        if started:
            texts = [f'{{"i":{json.dumps(a.header)},"s":"STARTED","n":0,"w":{self._worker}}}' for a in started]
            for message in _messages(texts):
                self._connected().publish(message)
            for attempt in started:
                attempt.announced = True
        if now - self._renewed_at >= self._renew_seconds:
            self._renew()
            self._renewed_at = now

    def _to_start(self, now: float) -> list[RunningAttempt]:
        return [a for a in list(self._running.values()) if not a.announced and now - a.since >= STARTED_AFTER_SECONDS]

    def _text(self, conclusion: Conclusion, size: int) -> str:
        """Return the JSON of the announcement; the result is spliced in as the text it already is."""
        text = f'{{"i":{json.dumps(conclusion.header)},"s":"{conclusion.state}","n":{size},"w":{self._worker}'
        if conclusion.encoded is not None:
            text += f',"r":{conclusion.encoded}'
        if conclusion.exception:
            text += f',"e":{json.dumps(conclusion.exception)},"m":{json.dumps(conclusion.message)}'
        return text + "}"

    def _renew(self) -> None:
        attempts = list(self._running.values())
        for start in range(0, len(attempts), BATCH):
            chunk = attempts[start : start + BATCH]
            for attempt, answer in zip(chunk, self._connected().renew([(a.key, a.token) for a in chunk]), strict=True):
                if answer == 2 and attempt.announced:
                    logger.warning("task %s runs here, but its claim is another worker's by now", attempt.task_id)

    def _keep_some(self, error: Exception) -> None:
        """Keep what could not be sent, within bounds."""
        waiting = len(self._unsent) + len(self._unconcluded)
        logger.warning("the result backend does not answer, %d ends wait: %s", waiting, protocol.mask_url(str(error)))
        del self._unsent[:-KEEP_UNSENT]
        del self._unconcluded[:-KEEP_UNSENT]

    def _connected(self) -> ClaimStore:
        if self._store is None:
            if self._make_store is None:
                raise RuntimeError("this worker's result backend keeps no claims")
            self._store = self._make_store()
        return self._store


def announced(text: str) -> str:
    """Return what is announced of an exception's text: without credentials, and cut."""
    looked_at = text[:LOOKED_AT_CHARACTERS]
    if len(text) > len(looked_at):
        # A URL that is cut here may end in a password; an @ makes it one that is masked.
        looked_at += "@"
    return protocol.mask_url(looked_at)[: protocol.MESSAGE_CHARACTERS]


def _claim_state(conclusion: Conclusion) -> str:
    """Return the claim's new state: where no result is stored, it alone says how the task ended."""
    stores_nothing = conclusion.state == protocol.REJECTED and conclusion.claim == protocol.CLAIM_DONE
    return f"{conclusion.claim} {conclusion.exception}" if stores_nothing else conclusion.claim


def _with_sizes(store: ClaimStore, batch: Sequence[Conclusion]) -> list[tuple[Conclusion, int]]:
    """Pair each conclusion that is announced with its result's size, asking for those that are not known."""
    announced = [c for c in batch if c.state is not None]
    unknown = [c.task_id for c in announced if c.size < 0]
    sizes = dict(zip(unknown, store.result_sizes(unknown), strict=True)) if unknown else {}
    return [(c, sizes[c.task_id] if c.size < 0 else c.size) for c in announced]


def _messages(texts: Sequence[str]) -> list[str]:
    """Join announcements into messages of a bounded size."""
    messages: list[str] = []
    gathered: list[str] = []
    size = 0
    for text in texts:
        if gathered and size + len(text) > MESSAGE_BYTES:
            messages.append("[" + ",".join(gathered) + "]")
            gathered, size = [], 0
        gathered.append(text)
        size += len(text)
    if gathered:
        messages.append("[" + ",".join(gathered) + "]")
    return messages
