"""Decides what a run does next, from its graph, what is known and what was observed."""

from __future__ import annotations

from datetime import datetime, timedelta

from celery_operator.api.workflow import RunPolicy
from celery_operator.domain.workflows import outcomes
from celery_operator.domain.workflows.draft import RunDraft
from celery_operator.domain.workflows.finish import finish, outputs
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.plan import Finish, Observed, Plan
from celery_operator.domain.workflows.publish import Publisher
from celery_operator.domain.workflows.settle import Settler
from celery_operator.domain.workflows.state import RunState
from celery_operator.domain.workflows.values import Renderer, is_small


def advance(
    graph: Graph,
    state: RunState,
    observed: Observed,
    *,
    now: datetime,
    uid: str,
    suspended: bool,
    policy: RunPolicy,
) -> Plan:
    """Return what to do now. ``uid`` is the workflow's, a UUID (else ValueError).

    Level-triggered: the same state and nothing new observed give an empty plan with the same state, except for
    ``fetch``, which is asked for until it is answered, and ``finished``, which stays.
    """
    draft = RunDraft(graph, state, uid=uid)
    outcomes.absorb(draft, observed, now=now)
    settler = Settler(draft, policy, now=now, suspended=suspended)
    publisher = Publisher(draft, policy, now=now)
    deadline = None
    if policy.active_deadline_seconds is not None:
        deadline = state.started + timedelta(seconds=policy.active_deadline_seconds)
    for name in graph.by_name:
        if not draft.look(name).final and draft.look(name).next_due is not None:
            draft.step(name).release_due(now)
    settler.settle()
    if deadline is not None and now >= deadline and not settler.done:
        settler.stop()
    if not suspended:
        while publisher.publish():  # a value that is not there has failed a step: others may end or begin for it
            settler.settle()
    _forget_large(draft, observed, settler)
    return _plan(draft, settler, publisher, suspended=suspended, deadline=deadline, policy=policy)


def _forget_large(draft: RunDraft, observed: Observed, settler: Settler) -> None:
    # What maps run over is in `lists` by now; memory keeps only small results beside that.
    if not settler.done:
        for key, value in observed.values.items():
            if not is_small(value):
                draft.drop_value(key)


def _plan(
    draft: RunDraft,
    settler: Settler,
    publisher: Publisher,
    *,
    suspended: bool,
    deadline: datetime | None,
    policy: RunPolicy,
) -> Plan:
    messages, revoked = publisher.kept(settler.revoked)
    fetch = settler.fetch
    finished: Finish | None = None
    if settler.done:
        shown = outputs(draft, Renderer(draft), succeeded=settler.succeeded)
        fetch = shown.fetch
        if not fetch:
            finished = finish(draft, policy, shown)
    waits = [] if suspended else [due for name in draft.graph.by_name if (due := draft.look(name).next_due)]
    if deadline is not None and not settler.done:
        waits.append(deadline)
    return Plan(
        state=draft.frozen(),
        publish=messages,
        fetch=fetch,
        revoke=revoked,
        wake_at=min(waits, default=None),
        more=publisher.more,
        finished=finished,
    )
