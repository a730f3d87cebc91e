"""The one task class: what its policies promise holds for ``delay``, ``apply_async``, ``s`` and every canvas.

@app.task(base=PatternTask, policies=[Idempotent(key="{order_id}", ttl="24h"), Retry(on=OSError)])
def charge(order_id): ...
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import celery
from celery.app.task import get_actual_ignore_result
from celery.exceptions import Reject, Retry
from celery.utils import uuid

from celery_patterns import protocol
from celery_patterns.tasks import context
from celery_patterns.tasks.execution import Execution
from celery_patterns.tasks.headers import HEADER, TOKEN, Tries
from celery_patterns.tasks.patterns import Patterns, patterns_of
from celery_patterns.tasks.policy import Call, Existing, Outcome, Policy, PolicyError, Publication

UNLIMITED = 2**31
"""Celery reads None as "the task's own"; no task is retried so often."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A task's policies, sorted by what they take part in, once."""

    policies: tuple[Policy, ...] = ()
    publish: tuple[Policy, ...] = ()
    resolve: tuple[Policy, ...] = ()
    before: tuple[Policy, ...] = ()
    returned: tuple[Policy, ...] = ()
    needs_store: bool = False
    lease_seconds: float | None = None
    """The shortest of the policies' own; None: the store's setting."""

    def deadline(self, task: Any, call: Call) -> float | None:
        """Return when the task's time is over, in seconds since the epoch."""
        hard, soft = task.request.timelimit or (None, None)
        limits = (soft or task.soft_time_limit, hard or task.time_limit)
        ends = [time.time() + limit for limit in limits if limit]
        ends += [end for policy in self.policies if (end := policy.ends_at(call)) is not None]
        return min(ends, default=None)


def overrides(policy: Policy, hook: str) -> bool:
    """Whether a policy has something of its own to do at one point."""
    return getattr(type(policy), hook) is not getattr(Policy, hook)


class PatternTask(celery.Task):  # type: ignore[misc]
    """A Celery task under policies."""

    abstract = True
    Request = "celery_patterns.tasks.request:PatternRequest"

    policies: ClassVar[Any] = ()
    """The policies, in any order: each has its place."""
    requeue_on_time_limit: ClassVar[bool] = False
    """Whether a message that is acknowledged late goes back to its queue when a hard time limit kills its process."""
    plan: ClassVar[Plan] = Plan()

    _running = threading.local()

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Check the policies and sort them; Celery calls it when the task gets its application.

        Raises:
            PolicyError: If an option is wrong or two policies are of one kind.
        """
        super().on_bound(app)
        if cls.name is None or cls.__dict__.get("plan_for") == cls.name:
            return
        cls.plan_for = cls.name
        policies = _checked(cls)
        for policy in policies:
            policy.bind(cls)
        leases = [policy.lease_seconds for policy in policies if policy.lease_seconds is not None]
        cls.plan = Plan(
            policies=policies,
            publish=tuple(policy for policy in policies if overrides(policy, "publish")),
            resolve=tuple(policy for policy in policies if overrides(policy, "resolve")),
            before=tuple(policy for policy in policies if overrides(policy, "before")),
            returned=tuple(policy for policy in policies if overrides(policy, "returned")),
            needs_store=any(policy.needs_store for policy in policies),
            lease_seconds=min(leases, default=None),
        )

    @property
    def patterns(self) -> Patterns:
        """What the application's patterns share."""
        return patterns_of(self.app)

    @property
    def lease_seconds(self) -> float:
        """How long what an execution holds may outlive its worker."""
        return self.plan.lease_seconds or self.patterns.store.settings.lease_seconds

    @property
    def context(self) -> context.TaskContext:
        """The context of the execution that runs here."""
        execution = self._execution
        return execution.context if execution is not None else context.bare_context(self, Call)

    # ---- running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task under its policies; a plain call, outside of a worker, runs the function alone."""
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        if request.is_eager or not self.plan.policies:
            return self.run(*args, **kwargs)
        execution = Execution(self, self._call(request), args, kwargs)
        # Only where something has put its own Request in the place of ours, nobody else keeps the lease.
        alone = self.plan.needs_store and not request.get(TOKEN)
        if alone:
            self.patterns.renewer.hold(execution.call.id, execution.call.token, self.lease_seconds)
        outer, self._running.execution = getattr(self._running, "execution", None), execution
        try:
            return execution.run()
        finally:
            self._running.execution = outer
            if alone:
                self.patterns.renewer.let_go(execution.call.id, execution.call.token)

    @property
    def _execution(self) -> Execution | None:
        execution: Execution | None = getattr(self._running, "execution", None)
        return execution if execution is not None and execution.task is self else None

    def _call(self, request: Any) -> Call:
        tries = Tries.of({HEADER: request.get(HEADER)}, request.retries or 0)
        return Call(
            task=self,
            id=request.id,
            token=request.get(TOKEN) or protocol.new_token(),
            arguments={},
            attempt=tries.attempt,
            deferrals=tries.deferrals,
            retries=request.retries or 0,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
            first_at=tries.first_at,
            worker=str(request.hostname or ""),
            deferred=tries.deferred,
        )

    def returned(self, request: Any, value: Any) -> Any:
        """Return what the policies make of a result before anybody gets it. Raises whatever is then the failure."""
        for policy in self.plan.returned:
            value = policy.returned(self, request, value)
        return value

    def ignores_result(self, request: Any) -> bool:
        """Whether nobody wants to know how this message ends."""
        return bool(get_actual_ignore_result(self, request))

    # ---- coming again

    def send_again(
        self, seconds: float, *, deferral: bool = False, error: Exception | None = None, reason: str = ""
    ) -> NoReturn:
        """Publish the message again, under the same id, and end this execution.

        Raises:
            Retry: Which tells Celery that the message was sent.
            Reject: If it could not be sent and is not acknowledged: the broker will deliver it again.
            kombu.exceptions.OperationalError: If it could not be sent and has nowhere to go back to.
        """
        request = self.request
        signature = self.signature_from_request(
            request, countdown=seconds, retries=request.retries + 1, deferral=seconds if deferral else None
        )
        try:
            signature.apply_async()
        except Exception as failure:
            if self.acks_late:
                raise Reject(failure, requeue=True) from failure
            raise
        raise Retry(reason or None, error, when=seconds, sig=signature) from error

    def retry(
        self, args: Any = None, kwargs: Any = None, exc: Any = None, *rest: Any, max_retries: Any = None, **options: Any
    ) -> Any:
        """Retry as in Celery; deferrals do not count, and what the policies hold is given back before."""
        request = self.request
        limit = self.max_retries if max_retries is None else max_retries
        tries = Tries.of({HEADER: request.get(HEADER)}, request.retries or 0)
        execution = self._execution
        if execution is not None and (limit is None or tries.attempt <= limit):
            execution.settle(Outcome.RETRY, exc if isinstance(exc, BaseException) else None)
        allowed = UNLIMITED if limit is None else limit + tries.deferrals
        return super().retry(args, kwargs, exc, *rest, max_retries=allowed, **options)

    def signature_from_request(
        self,
        request: Any = None,
        args: Any = None,
        kwargs: Any = None,
        queue: Any = None,
        *,
        deferral: float | None = None,
        **options: Any,
    ) -> Any:
        """Make the signature of the message that follows, with its tries counted in its header."""
        request = self.request if request is None else request
        headers = {**(request.headers or {}), **(options.pop("headers", None) or {})}
        # After the loss of a worker the request shows Celery its attempts alone: see PatternRequest.
        hidden = request.get("pattern_deferrals") or 0
        retries = (request.retries or 0) + hidden
        tries = Tries.of({HEADER: request.get(HEADER)}, retries)
        if "retries" in options:
            options["retries"] += hidden
        if options.get("retries", 0) > retries:
            now = time.time()
            following = tries.retried(now) if deferral is None else tries.deferred_for(deferral, now)
            headers[HEADER] = following.to_header()
        headers.pop(TOKEN, None)
        return super().signature_from_request(request, args, kwargs, queue, headers=headers, **options)

    # ---- publishing

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: Any = None, *rest: Any, **options: Any) -> Any:
        """Publish the task, if its policies let it go."""
        if not self.plan.publish or self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id, *rest, **options)
        publication = Publication(
            task=self,
            id=task_id or uuid(),
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            headers=dict(options.pop("headers", None) or {}),
            options=options,
            retrying=bool(options.get("retries")),
        )
        asked: list[Policy] = []
        for policy in self.plan.publish:
            answer = policy.publish(publication)
            if answer is not None:
                _take_back(asked, publication)
                return self._not_sent(publication, answer)
            asked.append(policy)
        options = {**publication.options, **({"headers": publication.headers} if publication.headers else {})}
        try:
            return super().apply_async(publication.args, publication.kwargs, publication.id, *rest, **options)
        except Exception:
            _take_back(asked, publication)
            raise

    def _not_sent(self, publication: Publication, answer: Any) -> Any:
        if isinstance(answer, Existing):
            return self.AsyncResult(answer.task_id)
        if not publication.options.get("ignore_result", self.ignore_result):
            self.backend.mark_as_revoked(publication.id, answer.reason)
        return self.AsyncResult(publication.id)


def _take_back(policies: list[Policy], publication: Publication) -> None:
    for policy in reversed(policies):
        policy.unpublished(publication)


def _checked(cls: Any) -> tuple[Policy, ...]:
    given = cls.policies
    if not isinstance(given, (list, tuple)):
        raise PolicyError(f"policies of {cls.name}: expected a list of policies, got {given!r}")
    seen: dict[str, Policy] = {}
    for policy in given:
        if isinstance(policy, type) and issubclass(policy, Policy):
            raise PolicyError(f"policies of {cls.name}: got the class {policy.__name__}, write {policy.__name__}(...)")
        if not isinstance(policy, Policy):
            raise PolicyError(f"policies of {cls.name}: expected policies such as Retry(...), got {policy!r}")
        if policy.name in seen:
            raise PolicyError(f"policies of {cls.name}: two of them are {policy.name}; one task has one of a kind")
        seen[policy.name] = policy
    return tuple(sorted(given, key=lambda policy: policy.order))
