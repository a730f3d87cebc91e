"""What the agent is told by its environment, read once in the worker's main process and in each child."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from celery_patterns import protocol

ENV_CLAIM_LEASE = "CELERY_AGENT_CLAIM_LEASE_SECONDS"
"""Another lease than protocol.CLAIM_LEASE_SECONDS. All workers of one result backend must use the same."""

ENV_LEASE = protocol.ENV_AGENT_LEASE
"""Seconds after which a killed worker's messages go back to their queues; without it Celery's own rule stays."""

ENV_STORE_PATIENCE = "CELERY_AGENT_STORE_PATIENCE_SECONDS"
"""How long a task that cannot be claimed, because the result backend does not answer, waits before its message goes
back to the queue."""

STORE_PATIENCE_SECONDS = 10.0
"""Longer than a restart or failover of Redis usually takes, shorter than a person waits before looking."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The agent's settings, with their defaults."""

    host: str = ""
    """Address to listen on; empty is all interfaces."""
    port: int = protocol.AGENT_PORT
    address_file: str | None = None
    token_file: str | None = None
    pool: str = ""
    lease_seconds: float = protocol.CLAIM_LEASE_SECONDS
    """Of claims: never longer than that of messages, or a message that came back would wait for its claim."""
    store_patience_seconds: float = STORE_PATIENCE_SECONDS
    message_lease_seconds: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> AgentSettings:
        """Read the settings.

        Raises:
            ValueError: If a variable is not a number in its range; the message names it.
        """
        message_lease = _number(environment, ENV_LEASE, 0, 3, 3600) or None
        claim_lease = min(protocol.CLAIM_LEASE_SECONDS, message_lease or protocol.CLAIM_LEASE_SECONDS)
        return cls(
            host=environment.get(protocol.ENV_AGENT_HOST, ""),
            port=int(_number(environment, protocol.ENV_AGENT_PORT, protocol.AGENT_PORT, 0, 65535)),
            address_file=environment.get(protocol.ENV_AGENT_ADDRESS_FILE) or None,
            token_file=environment.get(protocol.ENV_AGENT_TOKEN_FILE) or None,
            pool=environment.get(protocol.ENV_POOL, ""),
            lease_seconds=_number(environment, ENV_CLAIM_LEASE, claim_lease, 0.3, 3600),
            store_patience_seconds=_number(environment, ENV_STORE_PATIENCE, STORE_PATIENCE_SECONDS, 0, 3600),
            message_lease_seconds=message_lease,
        )


def _number(environment: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"environment variable {name}: expected a number from {low:g} to {high:g}, got {text!r}")
    return value
