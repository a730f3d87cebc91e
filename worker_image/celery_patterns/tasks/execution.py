"""One execution of a task under its policies: ask, run, settle."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from celery.exceptions import Ignore, Reject, Retry

from celery_patterns.store import StoreError, StoreUnavailable
from celery_patterns.tasks import composition, context
from celery_patterns.tasks.composition import Taken
from celery_patterns.tasks.errors import TooLongDeferred
from celery_patterns.tasks.keys import bind_arguments
from celery_patterns.tasks.policy import (
    Admit,
    Again,
    Call,
    Decision,
    Defer,
    Drop,
    Instead,
    Outcome,
    Policy,
    Refuse,
    Remedy,
    Skip,
    Step,
)
from celery_patterns.tasks.retry import Retry as RetryPolicy
from celery_patterns.tasks.state import TaskState

if TYPE_CHECKING:
    from celery_patterns.tasks.task import PatternTask

logger = logging.getLogger(__name__)

T = TypeVar("T")

STORE_PATIENCE_SECONDS = 10.0
"""How long the end of a run waits for the store: longer than a failover usually takes."""

STORE_PAUSE_SECONDS = (0.05, 1.0)
"""First and longest pause between two attempts to reach it."""

DEFER_JITTER = 0.2
"""Deferred messages spread over this share of their delay, so that they do not all come back at once."""

SHORTEST_DEFERRAL = 0.05
"""Seconds: a message that came back sooner would only be deferred again."""


class Execution:
    """One execution.

    Args:
        task: The task.
        call: What came with the message.
        args: The arguments as the task gets them.
        kwargs: The same.
    """

    def __init__(self, task: PatternTask, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.task = task
        self.call = call
        self._args = args
        self._kwargs = kwargs
        self._stored: list[tuple[Policy, Step]] = []
        """The policies whose scripts admitted, until they are settled."""
        self._asked: list[Policy] = []
        """The policies whose ``before`` admitted."""
        self._admission: composition.Admission | None = None
        self._fence: int | None = None
        self._settled = False
        self._began = time.monotonic()
        self.context = context.TaskContext(call)

    def run(self) -> Any:
        """Run the task if its policies let it.

        Raises:
            Retry: If the message was sent on its way again.
            Ignore: If the task was dropped.
            Exception: If the task failed for good.
        """
        decision = self._prepare()
        if not isinstance(decision, Admit):
            return self._without_running(decision)
        if decision.wait:
            time.sleep(decision.wait)
        self.context = self._make_context()
        token = context.enter(self.context)
        self._began = time.monotonic()
        try:
            result = self.task.run(*self._args, **self._kwargs)
        except (Retry, Ignore, Reject) as verdict:
            self.settle(Outcome.RETRY if isinstance(verdict, Retry) else Outcome.ENDED, None)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the policies decide
            return self._failed(error)
        finally:
            context.leave(token)
        return self._succeeded(result)

    # ---- before

    def _prepare(self) -> Decision:
        """Read the arguments and ask the policies; what goes wrong on the way is the task's failure.

        An argument that cannot be read at the moment is one that ``Retry`` is asked about. Other policies are not: what
        they hold or count is about calls that were made.
        """
        try:
            for policy in self.task.plan.resolve:
                self._args, self._kwargs = policy.resolve(self.task, self._args, self._kwargs)
        except Exception as error:
            self._retry_or(Outcome.ENDED, error)
            raise
        try:
            self.call = replace(self.call, arguments=bind_arguments(self.task, self._args, self._kwargs))
            decision: Decision = self._admit()
        except Exception as error:
            self.settle(Outcome.ENDED, error)
            self._give_up(error)
            raise
        return decision

    def _admit(self) -> Decision:
        wait = 0.0
        for decision in self._ask():
            if not isinstance(decision, Admit):
                return decision
            wait = max(wait, decision.wait)
            self._fence = decision.fence if decision.fence is not None else self._fence
        return Admit(wait)

    def _ask(self) -> Iterator[Decision]:
        """Yield what the policies say, one after the other: scripts first, since they say so in one round trip."""
        plan = self.task.plan
        if plan.needs_store:
            try:
                yield from self._ask_store(plan.policies)
            except StoreUnavailable as error:
                logger.warning("%s[%s]: %s", self.call.name, self.call.id, error)
                self._stored.clear()
                for policy in plan.policies:
                    if policy.needs_store:
                        yield policy.store_down(self.call, error)
        for policy in plan.before:
            decision = policy.before(self.call)
            if isinstance(decision, Admit):
                self._asked.append(policy)
            yield decision

    def _ask_store(self, policies: tuple[Policy, ...]) -> Iterator[Decision]:
        steps = [(policy, step) for policy in policies if (step := policy.admission(self.call)) is not None]
        store, lease = self.task.patterns.store, self.task.lease_seconds

        def ask() -> composition.Admission:
            return composition.admit(store, self.call, [step for _, step in steps], lease)

        self._admission = answer = _patiently(ask) if self._must_wait() else ask()
        if answer.taken is Taken.RUNNING:
            self._admission = None
            yield Defer(answer.left + 1.0, "another delivery of this task is running")
            return
        for (policy, step), reply in zip(steps, answer.replies, strict=False):
            decision = policy.admitted(self.call, reply)
            if reply[0] == 0:
                self._stored.append((policy, step))
            if not isinstance(decision, Admit):
                if answer.taken is Taken.STOPPED:
                    # The script gave back what the earlier policies took.
                    self._stored.clear()
                    self._admission = None
                yield decision
                return
            yield decision

    def _must_wait(self) -> bool:
        """Whether some policy does not let the task run without the store: then a short outage is waited for."""
        down = StoreUnavailable("the store does not answer")
        return any(
            not isinstance(policy.store_down(self.call, down), Admit)
            for policy in self.task.plan.policies
            if policy.needs_store
        )

    def _make_context(self) -> context.TaskContext:
        state = checkpoint = None
        deliveries = self.call.attempt
        if self._admission is not None:
            state = TaskState(self.task.patterns.store, self.call.id, self.call.token)
            checkpoint, deliveries = self._admission.checkpoint, self._admission.deliveries
        return context.TaskContext(
            self.call,
            state=state,
            fence=self._fence,
            deliveries=deliveries,
            deadline=self.task.plan.deadline(self.task, self.call),
            checkpoint=checkpoint,
        )

    def _without_running(self, decision: Defer | Skip | Drop | Refuse) -> Any:
        if isinstance(decision, Skip):
            logger.info("%s[%s] is not run: %s", self.call.name, self.call.id, decision.reason)
            return self._instead(decision.result, Outcome.ENDED, None)
        deferred = isinstance(decision, Defer)
        self.settle(Outcome.DEFERRED if deferred else Outcome.ENDED, None)
        if isinstance(decision, Defer):
            self._defer(decision)
        if isinstance(decision, Drop):
            self._drop(decision.reason)
        return self._refused(decision.error)

    def _refused(self, error: Exception) -> Any:
        for policy in self.task.plan.policies:
            remedy = policy.on_refusal(self.call, error)
            if remedy is not None:
                return self._instead(remedy.result, Outcome.ENDED, error)
        self._give_up(error)
        raise error

    def _drop(self, reason: str) -> NoReturn:
        logger.info("%s[%s] is dropped: %s", self.call.name, self.call.id, reason)
        request = self.task.request
        # The same state as a revoked task's: whoever waits for the result is told, and a chord goes on to its errback.
        self.task.backend.mark_as_revoked(
            self.call.id, reason, request=request, store_result=not self.task.ignores_result(request)
        )
        raise Ignore(reason)

    def _defer(self, decision: Defer) -> NoReturn:
        call = self.call
        if decision.give_up_after is not None and call.deferred + decision.seconds > decision.give_up_after:
            error = TooLongDeferred(
                f"{call.name}[{call.id}] was deferred for {call.deferred:.0f} s, {call.deferrals} times, "
                f"which is all its policy allows: {decision.reason}"
            )
            self._give_up(error)
            raise error
        seconds = max(SHORTEST_DEFERRAL, decision.seconds) * random.uniform(1.0, 1.0 + DEFER_JITTER)
        logger.info("%s[%s] is deferred by %.2f s: %s", call.name, call.id, seconds, decision.reason)
        self.task.send_again(seconds, deferral=True, reason=decision.reason)

    # ---- after

    def _succeeded(self, result: Any) -> Any:
        try:
            result = self.task.returned(self.task.request, result)
            again = self.settle(Outcome.SUCCESS, result)
        except Exception as error:  # noqa: BLE001 - a result that cannot be stored, or a policy's own fault
            self._settled = False
            return self._failed(error)
        if again is not None:
            self._defer(again)
        return result

    def _instead(self, result: Any, outcome: Outcome, failure: Exception | None) -> Any:
        """End with a result that a policy has given, after this failure if there was one.

        Where that result cannot be had (it is too large, or its place is away), that is an error like the task's own,
        except that nothing comes in the place of this one.
        """
        try:
            result = self.task.returned(self.task.request, result)
        except Exception as error:
            self._retry_or(outcome, error)
            raise
        self.settle(outcome, failure)
        return result

    def _retry_or(self, outcome: Outcome, error: Exception) -> None:
        """Come again if ``Retry`` says so, or else end in this way; no policy is asked for something instead."""
        retries = [policy for policy in self.task.plan.policies if isinstance(policy, RetryPolicy)]
        again = next((found for policy in retries if (found := policy.on_failure(self.call, error))), None)
        self.settle(Outcome.RETRY if again else outcome, error)
        if again is not None:
            self.task.send_again(again.seconds, error=error, reason=again.reason)
        self._give_up(error)

    def _failed(self, error: Exception) -> Any:
        remedy = self._remedy(error)
        if isinstance(remedy, Instead):
            return self._instead(remedy.result, Outcome.FAILURE, error)
        self.settle(Outcome.RETRY if isinstance(remedy, Again) else Outcome.FAILURE, error)
        if isinstance(remedy, Again):
            self.task.send_again(remedy.seconds, error=error, reason=remedy.reason)
        self._give_up(error)
        raise error

    def _remedy(self, error: Exception) -> Remedy | None:
        for policy in self.task.plan.policies:
            remedy = policy.on_failure(self.call, error)
            if remedy is not None:
                return remedy
        return None

    def _give_up(self, error: Exception) -> None:
        for policy in self.task.plan.policies:
            try:
                policy.given_up(self.call, error)
            except Exception:
                logger.exception("%s of %s[%s] failed itself", policy.name, self.call.name, self.call.id)

    def settle(self, outcome: Outcome, result: Any) -> Defer | None:
        """End the policies' part in this execution; only the first call does something."""
        if self._settled:
            return None
        self._settled = True
        seconds = time.monotonic() - self._began
        again = None
        if self._admission is not None:
            again = self._settle_store(outcome, result, seconds)
        for policy in self._asked:
            policy.after(self.call, outcome, result, seconds)
        return again

    def _settle_store(self, outcome: Outcome, result: Any, seconds: float) -> Defer | None:
        steps = [
            (policy, step)
            for policy, _ in self._stored
            if (step := policy.settlement(self.call, outcome, result, seconds)) is not None
        ]
        store = self.task.patterns.store
        try:
            _patiently(self.context.flush)
            mine, replies = _patiently(
                lambda: composition.settle(store, self.call, [step for _, step in steps], outcome)
            )
        except StoreError as error:
            # It has run, whatever the store says; what it held becomes free when the lease is over.
            logger.error("%s[%s] ended as %s, unrecorded: %s", *self._name, outcome.value, error)  # noqa: TRY400
            return None
        if not mine:
            logger.warning("%s[%s] ended after its lease, or the store was flushed meanwhile", *self._name)
        answers = [policy.settled(self.call, outcome, reply) for (policy, _), reply in zip(steps, replies, strict=True)]
        return next((answer for answer in answers if answer is not None), None)

    @property
    def _name(self) -> tuple[str, str]:
        return self.call.name, self.call.id


def _patiently(action: Callable[[], T]) -> T:
    """Do something with the store, again for some seconds if it does not answer."""
    deadline = time.monotonic() + STORE_PATIENCE_SECONDS
    pause, longest = STORE_PAUSE_SECONDS
    while True:
        try:
            return action()
        except StoreUnavailable:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, longest)
