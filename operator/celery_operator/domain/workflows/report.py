"""The status of a workflow, from its spec, its state and what is known about its surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from celery_operator.api.conditions import ConditionType, Reason
from celery_operator.api.workflow import Checkpoint, TaskCounts, WorkflowSpec, WorkflowStatus
from celery_operator.domain.conditions import ConditionClaim, rfc3339, set_conditions, shorten
from celery_operator.domain.errors import DependencyError, SpecError
from celery_operator.domain.workflows.bounds import bounded
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.outcomes import clean_text
from celery_operator.domain.workflows.plan import Finish
from celery_operator.domain.workflows.state import RunState
from celery_operator.domain.workflows.step_report import failures, run_counts, step_statuses

MESSAGE_LENGTH = 256
"""As long as ``status.message``."""
CONDITION_MESSAGE_LENGTH = 512
"""Half of what a condition may hold: seven of them have to fit beside everything else."""

FINAL_REFUSALS = frozenset({Reason.INVALID_SPEC, Reason.CYCLE_DETECTED, Reason.UNKNOWN_STEP})
"""What is wrong in the spec itself, which cannot change: the workflow has failed. Other refusals heal."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether a server answers; None: it was not looked at."""

    reachable: bool | None
    reason: Reason
    message: str = ""

    @classmethod
    def unknown(cls) -> Reachability:
        """Not looked at yet."""
        return cls(None, Reason.NOT_CHECKED)

    @classmethod
    def up(cls) -> Reachability:
        """It answered."""
        return cls(reachable=True, reason=Reason.CONNECTED)

    @classmethod
    def down(cls, error: DependencyError) -> Reachability:
        """It did not answer, or refused."""
        return cls(reachable=False, reason=error.reason, message=error.message)


@dataclass(frozen=True, slots=True)
class Stall:
    """Why there is no progress until somebody acts."""

    reason: Reason
    message: str

    @classmethod
    def store(cls, error: DependencyError) -> Stall:
        """Broker or result backend cannot be reached."""
        return cls(Reason.STORE_UNREACHABLE, f"{error.message}; the run goes on when it answers")

    @classmethod
    def defect(cls, error: Exception) -> Stall:
        """Something happened in the operator that it was not written for."""
        name = type(error).__name__
        return cls(Reason.OPERATOR_DEFECT, f"{name}: a defect of the operator, which tries again; its log says more")

    @classmethod
    def no_workers(cls, queues: list[str]) -> Stall:
        """Tasks wait in queues that nobody consumes."""
        return cls(
            Reason.NO_WORKERS_FOR_QUEUE,
            f"tasks wait in {', '.join(queues)} and no worker takes them: start a pool for them",
        )

    @classmethod
    def out_of_sight(cls, count: int, queues: list[str]) -> Stall:
        """Tasks have left their queue, and nobody tells that they run: no worker with the agent has been heard of."""
        return cls(
            Reason.TASKS_OUT_OF_SIGHT,
            f"{count} tasks have left {', '.join(queues)}, and no worker with the agent has begun them. Workers "
            "without it may run them (raise lostAfterSeconds above their time), or the broker has lost them. They are "
            "published again once a worker with the agent is heard; without agents the workflow has to be run again",
        )


def report(
    *,
    spec: WorkflowSpec | None,
    graph: Graph | None,
    state: RunState | None,
    previous: WorkflowStatus | None,
    generation: int,
    now: datetime,
    uid: str,
    finish: Finish | None = None,
    refused: SpecError | None = None,
    broker: Reachability | None = None,
    backend: Reachability | None = None,
    stall: Stall | None = None,
    checkpoint: Checkpoint | None = None,
) -> WorkflowStatus:
    """Return the status to write; always below 64 KiB.

    ``spec`` is None if it could not even be read, ``graph`` and ``state`` as long as there is no run: what ``previous``
    said about one then stays. ``refused`` says why the spec is not accepted. All conditions are always set; their
    ``lastTransitionTime`` is the previous one unless the status changed. ``uid`` is the workflow's.
    """
    final_refusal = refused is not None and refused.reason in FINAL_REFUSALS and state is None
    ended = finish is not None or final_refusal
    suspended = spec is not None and spec.suspend and not ended
    claims = _claims(
        state,
        finish=finish,
        refused=refused,
        broker=broker or Reachability.unknown(),
        backend=backend or Reachability.unknown(),
        stall=None if ended else stall,
        suspended=suspended,
        final_refusal=final_refusal,
    )
    before = previous or WorkflowStatus()
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": _phase(state, finish=finish, suspended=suspended, final_refusal=final_refusal),
            "conditions": set_conditions(before.conditions, claims, generation=generation, now=now),
            "message": _message(finish, refused, None if ended else stall),
            "checkpoint": checkpoint,
        }
    )
    if final_refusal and before.completion_time is None:
        status = status.model_copy(update={"completion_time": rfc3339(now)})
    if graph is not None and state is not None:
        status = _with_run(status, graph, state, finish, now=now, uid=uid)
    return bounded(status)


def stalled(previous: WorkflowStatus | None, stall: Stall, *, generation: int, now: datetime) -> WorkflowStatus:
    """Return the status that was written, with nothing changed but that there is no progress, and why."""
    before = previous or WorkflowStatus(phase="Pending")
    claims = [_stalled(None, stall)]
    conditions = set_conditions(before.conditions, claims, generation=generation, now=now)
    return before.model_copy(update={"conditions": conditions, "message": _message(None, None, stall)})


def _with_run(
    status: WorkflowStatus, graph: Graph, state: RunState, finish: Finish | None, *, now: datetime, uid: str
) -> WorkflowStatus:
    counts = run_counts(graph, state)
    same_run = status.run == state.run
    started = status.start_time if same_run and status.start_time else rfc3339(state.started)
    completed = None
    if finish is not None:
        completed = status.completion_time if same_run and status.completion_time else rfc3339(now)
    return status.model_copy(
        update={
            "start_time": started,
            "completion_time": completed,
            "progress": _progress(counts),
            "run": state.run,
            "tasks": counts,
            "steps": step_statuses(graph, state),
            "failures": failures(graph, state, uid=uid),
            "outputs": [] if finish is None else list(finish.outputs),
        }
    )


def _progress(counts: TaskCounts) -> str:
    ended = counts.succeeded + counts.failed + counts.skipped + counts.revoked
    return f"{ended}/{counts.total}"


def _phase(
    state: RunState | None, *, finish: Finish | None, suspended: bool, final_refusal: bool
) -> Literal["Pending", "Running", "Suspended", "Succeeded", "Failed"]:
    if finish is not None:
        return "Succeeded" if finish.succeeded else "Failed"
    if final_refusal:
        return "Failed"
    if suspended:
        return "Suspended"
    return "Pending" if state is None else "Running"


def _message(finish: Finish | None, refused: SpecError | None, stall: Stall | None) -> str | None:
    said = finish or refused or stall
    return None if said is None else shorten(clean_text(said.message, 2 * MESSAGE_LENGTH), MESSAGE_LENGTH)


# -------------------------------------------------------------------------------------------------------- conditions


def _claims(
    state: RunState | None,
    *,
    finish: Finish | None,
    refused: SpecError | None,
    broker: Reachability,
    backend: Reachability,
    stall: Stall | None,
    suspended: bool,
    final_refusal: bool,
) -> list[ConditionClaim]:
    quiet = refused is not None and state is None
    if suspended and state is not None and not any(step.active for step in state.steps.values()):
        quiet = True
    settled = finish is not None or quiet
    return [
        _accepted(refused),
        _reachable(ConditionType.BROKER_REACHABLE, broker),
        _reachable(ConditionType.RESULT_BACKEND_REACHABLE, backend),
        ConditionClaim(
            ConditionType.RECONCILING,
            "False" if settled else "True",
            Reason.SETTLED if settled else Reason.PROGRESSING,
        ),
        ConditionClaim(
            ConditionType.SUSPENDED,
            "True" if suspended else "False",
            Reason.SUSPENDED_BY_SPEC if suspended else Reason.NOT_SUSPENDED,
        ),
        _stalled(refused if state is None else None, stall),
        _succeeded(finish, refused if final_refusal else None),
    ]


def _accepted(refused: SpecError | None) -> ConditionClaim:
    if refused is None:
        return ConditionClaim(ConditionType.ACCEPTED, "True", Reason.ACCEPTED)
    return ConditionClaim(ConditionType.ACCEPTED, "False", refused.reason, _text(refused.message))


def _reachable(kind: ConditionType, server: Reachability) -> ConditionClaim:
    status: Literal["True", "False", "Unknown"] = "Unknown"
    if server.reachable is not None:
        status = "True" if server.reachable else "False"
    return ConditionClaim(kind, status, server.reason, _text(server.message))


def _stalled(refused: SpecError | None, stall: Stall | None) -> ConditionClaim:
    if refused is not None:
        return ConditionClaim(ConditionType.STALLED, "True", Reason.NOT_ACCEPTED, _text(refused.message))
    if stall is not None:
        return ConditionClaim(ConditionType.STALLED, "True", stall.reason, _text(stall.message))
    return ConditionClaim(ConditionType.STALLED, "False", Reason.MAKING_PROGRESS)


def _succeeded(finish: Finish | None, refused: SpecError | None) -> ConditionClaim:
    if refused is not None:
        return ConditionClaim(ConditionType.SUCCEEDED, "False", Reason.INVALID_SPEC, _text(refused.message))
    if finish is None:
        return ConditionClaim(ConditionType.SUCCEEDED, "Unknown", Reason.RUNNING)
    status: Literal["True", "False"] = "True" if finish.succeeded else "False"
    return ConditionClaim(ConditionType.SUCCEEDED, status, finish.reason, _text(finish.message))


def _text(message: str) -> str:
    return shorten(clean_text(message, 2 * CONDITION_MESSAGE_LENGTH), CONDITION_MESSAGE_LENGTH)
