"""A tiny world for runs: workers that run each attempt once, a store of results, and a clock that moves on demand."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_operator.api.workflow import RunPolicy, WorkflowSpec
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.advance import advance
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lookups import outstanding
from celery_operator.domain.workflows.plan import Fetch, Finish, Observed, Outcome, OutcomeState, Plan
from celery_operator.domain.workflows.state import Code, RunState, from_checkpoint, initial_state, to_checkpoint
from celery_patterns.jsonpath import select
from celery_patterns.protocol import ResultReference

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
UID = "6f1c0cbe-5d0e-4b7a-9a51-0c6a3c0f7a11"
ROUNDS = 5000
"""Far more than any run in these tests needs: reaching it means that the run hangs."""

PRIME = 1009


def digest(*args: Any, **kwargs: Any) -> int:
    """Return a small number that depends on every argument."""
    text = json.dumps([args, kwargs], sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % PRIME


def listing(*args: Any, **kwargs: Any) -> list[int]:
    """Return a list of none to four numbers that depends on every argument."""
    number = digest(*args, **kwargs)
    return [number + each for each in range(number % 5)]


def total(values: list[Any], *further: Any) -> int:
    """Return a sum that does not mind in which groups it is formed."""
    return (sum(value or 0 for value in values) + digest(*further) * bool(further)) % PRIME


FUNCTIONS: Mapping[str, Callable[..., Any]] = {"digest": digest, "listing": listing, "total": total}

Faults = Mapping[tuple[str, int], tuple[OutcomeState, ...]]
"""(step, index) -> how its first attempts end; those after them succeed."""


def graph_of(**work: Any) -> Graph:
    """Compile the spec with this work."""
    return compile_workflow(spec_of(**work))


def spec_of(**work: Any) -> WorkflowSpec:
    """Return the spec with this work."""
    return WorkflowSpec.model_validate({"appRef": {"name": "shop"}, **work})


def step(graph: Graph, state: RunState, *outcomes: Outcome, **options: Any) -> Plan:
    """Advance once, with defaults."""
    settings = {"now": NOW, "uid": UID, "suspended": False, "policy": RunPolicy(), **options}
    observed = settings.pop("observed", None) or Observed(tuple(outcomes))
    return advance(graph, state, observed, **settings)


def told(message: TaskMessage, state: OutcomeState = "succeeded", /, **fields: Any) -> Outcome:
    """Return what a worker tells about a message."""
    identity = message.identity
    fields.setdefault("time", NOW)
    if "value" in fields:
        fields.setdefault("has_value", True)
    return Outcome(identity.step, identity.index, identity.attempt, state, **fields)


@dataclass
class World:
    """Everything outside the planner. ``inline`` says whether small results are announced with their value."""

    graph: Graph
    policy: RunPolicy = field(default_factory=RunPolicy)
    faults: Faults = field(default_factory=dict)
    inline: Callable[[], bool] = lambda: True
    now: datetime = NOW
    results: dict[str, Any] = field(default_factory=dict)
    """Task id -> value."""
    ended: dict[str, Outcome] = field(default_factory=dict)
    """Task id -> what became of it; an attempt runs once."""
    waiting: list[TaskMessage] = field(default_factory=list)

    def resolve(self, value: Any) -> Any:
        """Return an argument as a worker sees it."""
        reference = ResultReference.from_json(value)
        if reference is not None:
            values = [None if each is None else self.results[each] for each in reference.task_ids()]
            whole = values[0] if reference.stop is None else values
            return whole if reference.path is None else select(whole, reference.path)
        if isinstance(value, list):
            return [self.resolve(each) for each in value]
        return value

    def run(self, message: TaskMessage) -> Outcome:
        """Run one message, or return what became of that attempt before."""
        identity = message.identity
        known = self.ended.get(identity.task_id)
        if known is not None:
            return known
        faults = self.faults.get((identity.step, identity.index), ())
        if identity.attempt <= len(faults):
            outcome = told(message, faults[identity.attempt - 1], time=self.now, exception="Boom", message="as planned")
        else:
            if identity.values_inline:
                assert self.resolve(list(message.args)) == list(message.args)
            args = [self.resolve(each) for each in message.args]
            kwargs = {name: self.resolve(each) for name, each in message.kwargs.items()}
            value = FUNCTIONS[message.task](*args, **kwargs)
            self.results[identity.task_id] = value
            outcome = told(message, time=self.now, size=len(json.dumps(value)))
            if self.inline():
                outcome = told(message, time=self.now, size=len(json.dumps(value)), value=value)
        self.ended[identity.task_id] = outcome
        return outcome

    def read(self, fetch: Fetch) -> Any:
        """Return what a plan asked for."""
        values = [None if each is None else self.results[each] for each in fetch.task_ids]
        return values if fetch.many else values[0]

    def result_of(self, state: RunState, name: str) -> Any:
        """Return the result of a step that has succeeded, as a worker would read it."""
        node, step = self.graph.by_name[name], state.steps[name]
        count = len(step.items or b"")
        failed = tuple(index for index in range(count) if (step.items or b"")[index] != Code.SUCCEEDED)
        start, stop = (0, count) if node.kind == "Map" else (count - 1, None)
        attempts = tuple(sorted(step.attempts.items()))
        missing = failed if node.kind == "Map" else ()
        return self.resolve(ResultReference(UID, state.run, name, start, stop, attempts, missing).to_json())

    def sweep(self, state: RunState) -> list[Outcome]:
        """Return what became of those that the planner still waits for."""
        return [
            self.ended[each.task_id] for each in outstanding(self.graph, state, uid=UID) if each.task_id in self.ended
        ]


@dataclass
class Ended:
    """A run that is over."""

    state: RunState
    finish: Finish
    published: list[TaskMessage]


def run_to_end(
    world: World,
    *,
    luck: random.Random | None = None,
    restarts: bool = False,
    amnesia: bool = False,
    noise: bool = False,
) -> Ended:
    """Drive a run until it is over; raises AssertionError if it hangs or publishes an attempt twice.

    ``luck`` decides in which order tasks end. ``restarts``: the state sometimes goes through a checkpoint. ``amnesia``:
    it sometimes falls back to an earlier one. ``noise``: outcomes are told again, late, and of what does not exist.
    """
    luck = luck or random.Random(0)
    state = initial_state(world.graph, now=world.now)
    saved = to_checkpoint(state)
    seen: set[str] = set()
    published: list[TaskMessage] = []
    outcomes: list[Outcome] = []
    values: dict[str, Any] = {}
    for _ in range(ROUNDS):
        observed = Observed(tuple(outcomes), values)
        plan = advance(world.graph, state, observed, now=world.now, uid=UID, suspended=False, policy=world.policy)
        state = plan.state
        for message in plan.publish:
            assert message.identity.task_id not in seen, f"published twice: {message.identity}"
            seen.add(message.identity.task_id)
        published.extend(plan.publish)
        world.waiting.extend(plan.publish)
        if plan.publish:
            assert sum(each.active for each in state.steps.values()) <= world.policy.parallelism
        if plan.finished is not None:
            return Ended(state, plan.finished, published)
        outcomes = _happen(world, luck, noise=noise)
        values = {fetch.key: world.read(fetch) for fetch in plan.fetch}
        if restarts and luck.random() < 0.3:
            state = from_checkpoint(world.graph, to_checkpoint(state))
        if amnesia and luck.random() < 0.1:
            state, values, seen = from_checkpoint(world.graph, saved), {}, set()
        if luck.random() < 0.2:
            saved = to_checkpoint(state)
        if not outcomes and not values and not plan.more:
            outcomes = world.sweep(state)
            if not outcomes and not plan.publish:
                _pass_time(world, state, plan)
    raise AssertionError(f"the run does not end: {state}")


def _pass_time(world: World, state: RunState, plan: Plan) -> None:
    """Move on to when the plan wants to be called again, if nothing else can happen any more."""
    if world.waiting:
        return
    again = step(world.graph, state, now=world.now, policy=world.policy)
    if again.publish or again.fetch or again.finished or again.state is not state:
        return  # the state went through a checkpoint since this plan
    assert plan.wake_at is not None, f"the run hangs: {state}"
    world.now = max(world.now, plan.wake_at)


def _happen(world: World, luck: random.Random, *, noise: bool) -> list[Outcome]:
    luck.shuffle(world.waiting)
    count = luck.randint(0, len(world.waiting))
    done, world.waiting = world.waiting[:count], world.waiting[count:]
    world.now += timedelta(milliseconds=luck.randint(0, 500))
    outcomes = [world.run(message) for message in done]
    if noise:
        outcomes += [told(message, "started", time=world.now) for message in world.waiting if luck.random() < 0.5]
        outcomes += [told(message, "retrying", time=world.now) for message in world.waiting if luck.random() < 0.2]
        outcomes += luck.sample(list(world.ended.values()), k=min(3, len(world.ended)))
        outcomes += [
            Outcome("no-such-step", 0, 1, "succeeded", world.now),
            Outcome(world.graph.nodes[0].name, 10**6, 1, "failed", world.now),
            Outcome(world.graph.nodes[0].name, 0, 10**6, "failed", world.now),
        ]
        luck.shuffle(outcomes)
    return outcomes
