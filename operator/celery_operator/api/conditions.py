"""Condition types and reasons. They are part of the API: tools read them, so they are only ever added.

Each reason says on which condition it is set, with which status, and when.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from celery_operator.api.model import ApiModel, Timestamp


class ConditionType(StrEnum):
    """What a condition speaks about."""

    ACCEPTED = "Accepted"
    """The resource is valid and everything it names exists."""
    BROKER_REACHABLE = "BrokerReachable"
    RESULT_BACKEND_REACHABLE = "ResultBackendReachable"
    READY = "Ready"
    """Apps: usable. Pools: at least the smallest allowed number of workers is ready."""
    RECONCILING = "Reconciling"
    """kstatus: the operator is still working towards the spec."""
    STALLED = "Stalled"
    """kstatus: no progress is possible until somebody acts."""
    SUCCEEDED = "Succeeded"
    """Workflows: how the run ended; Unknown while it runs."""
    SUSPENDED = "Suspended"
    SCALING_ACTIVE = "ScalingActive"
    """The pool's replicas follow demand (False: fixed, or demand is unknown and replicas are held)."""
    SCALING_LIMITED = "ScalingLimited"
    """A bound keeps the pool from the replicas that demand asks for."""
    DRAIN_SUPPORTED = "DrainSupported"
    """Every worker of the pool runs the agent, so that scaling in can drain it first."""


class Reason(StrEnum):
    """Why a condition has its status."""

    # Accepted
    ACCEPTED = "Accepted"
    """Accepted=True."""
    INVALID_SPEC = "InvalidSpec"
    """Accepted=False: a value or a combination of values is wrong; the message names the field."""
    CYCLE_DETECTED = "CycleDetected"
    """Accepted=False: steps of a dag wait for each other; the message names them."""
    UNKNOWN_STEP = "UnknownStep"
    """Accepted=False: a step that does not exist, or does not run before, is named."""
    CONFLICTING_ARGUMENTS = "ConflictingArguments"
    """Accepted=False: worker.extraArgs sets what a typed field or the operator owns."""
    APP_NOT_FOUND = "AppNotFound"
    """Accepted=False: appRef names no CeleryApp of this namespace. Heals when it appears."""
    SECRET_NOT_FOUND = "SecretNotFound"
    """Accepted=False: a Secret or its key is missing. Heals when it appears."""
    UNSUPPORTED_BROKER = "UnsupportedBroker"
    """Accepted=False: the broker URL cannot be parsed, or its transport is not served."""
    UNSUPPORTED_BACKEND = "UnsupportedBackend"
    """Accepted=False: the result backend's URL cannot be parsed, or its kind is not served."""
    NO_RESULT_BACKEND = "NoResultBackend"
    """Accepted=False on workflows: steps cannot be followed without results."""
    # BrokerReachable, ResultBackendReachable
    CONNECTED = "Connected"
    CONNECTION_FAILED = "ConnectionFailed"
    """False: no connection within three seconds, or it was refused."""
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    """False: the server refused the credentials."""
    NOT_CHECKED = "NotChecked"
    """Unknown: not looked at yet."""
    # Ready of pools
    MINIMUM_REPLICAS_READY = "MinimumReplicasReady"
    """Ready=True."""
    REPLICAS_NOT_READY = "ReplicasNotReady"
    """Ready=False: fewer workers are ready than the pool needs now."""
    PODS_REFUSED = "PodsRefused"
    """Ready=False: Kubernetes refuses to create the pods; the message has its words."""
    NOT_ACCEPTED = "NotAccepted"
    """Ready=False: see Accepted."""
    # Reconciling and Stalled
    SETTLED = "Settled"
    """Reconciling=False: nothing is left to do for this generation."""
    PROGRESSING = "Progressing"
    """Reconciling=True."""
    MAKING_PROGRESS = "MakingProgress"
    """Stalled=False."""
    NO_WORKERS_FOR_QUEUE = "NoWorkersForQueue"
    """Stalled=True on workflows: tasks wait in a queue that no ready worker consumes."""
    TASKS_OUT_OF_SIGHT = "TasksOutOfSight"
    """Stalled=True on workflows: tasks left their queue, and nobody tells that they run; see ``lostAfterSeconds``."""
    STORE_UNREACHABLE = "StoreUnreachable"
    """Stalled=True on workflows: broker or result backend cannot be reached; the run goes on when they can."""
    OPERATOR_DEFECT = "OperatorDefect"
    """Stalled=True on workflows: the operator failed over it, and tries again; its log has the traceback."""
    # ScalingActive, ScalingLimited
    FOLLOWING_DEMAND = "FollowingDemand"
    """ScalingActive=True."""
    FIXED_REPLICAS = "FixedReplicas"
    """ScalingActive=False: spec.replicas rules."""
    DEMAND_UNKNOWN = "DemandUnknown"
    """ScalingActive=False: broker or workers do not answer; replicas are held, never reduced."""
    WITHIN_RANGE = "WithinRange"
    """ScalingLimited=False."""
    TOO_FEW_REPLICAS = "TooFewReplicas"
    """ScalingLimited=True: minReplicas holds more than demand needs."""
    TOO_MANY_REPLICAS = "TooManyReplicas"
    """ScalingLimited=True: maxReplicas holds fewer than demand needs."""
    BUSY_WORKERS = "BusyWorkers"
    """ScalingLimited=True: fewer replicas are wanted, but no further worker is idle."""
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    """ScalingLimited=True: pods of two revisions run; scaling in waits for the rollout."""
    # DrainSupported
    AGENT_REPORTS = "AgentReports"
    AGENT_MISSING = "AgentMissing"
    """DrainSupported=False: workers run without the agent; they are scaled in without draining."""
    # Suspended
    NOT_SUSPENDED = "NotSuspended"
    SUSPENDED_BY_SPEC = "SuspendedBySpec"
    """Suspended=True: nothing new is published; what runs goes on."""
    # Succeeded
    RUNNING = "Running"
    """Succeeded=Unknown."""
    COMPLETED = "Completed"
    """Succeeded=True."""
    COMPLETED_WITH_FAILURES = "CompletedWithFailures"
    """Succeeded=True: only failures that the spec allows."""
    TASK_FAILED = "TaskFailed"
    """Succeeded=False: a task failed and had no retries left."""
    TOO_MANY_ITEMS_FAILED = "TooManyItemsFailed"
    """Succeeded=False: more items of a map failed than maxFailed allows."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """Succeeded=False: runPolicy.activeDeadlineSeconds passed."""
    TASKS_LOST = "TasksLost"
    """Succeeded=False: workers died with tasks that had no retries left."""
    # Events
    STARTED = "Started"
    SCALED_OUT = "ScaledOut"
    SCALED_IN = "ScaledIn"
    DRAIN_STARTED = "DrainStarted"
    CREATED_DEPLOYMENT = "CreatedDeployment"
    UPDATED_DEPLOYMENT = "UpdatedDeployment"


Status = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """A ``metav1.Condition``."""

    type: Annotated[str, Field(max_length=316)]
    status: Status
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    message: Annotated[str, Field(max_length=1024)] = ""
    last_transition_time: Timestamp
    observed_generation: int | None = None


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]
"""At most one of each type."""
