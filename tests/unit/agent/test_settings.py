"""The agent's settings come from the environment, and a wrong one is named."""

from __future__ import annotations

import pytest

from celery_patterns import protocol
from celery_patterns.agent.settings import AgentSettings


def test_defaults() -> None:
    assert AgentSettings.from_environment({}) == AgentSettings(
        host="", port=9540, address_file=None, token_file=None, pool="", lease_seconds=30, store_patience_seconds=10.0
    )
    assert AgentSettings.from_environment({}).message_lease_seconds is None


def test_everything_set() -> None:
    environment = {
        "CELERY_AGENT_HOST": "127.0.0.1",
        "CELERY_AGENT_PORT": "0",
        "CELERY_AGENT_ADDRESS_FILE": "/run/address",
        "CELERY_AGENT_TOKEN_FILE": "/run/token",
        "CELERY_OPERATOR_POOL": "shop/images",
        "CELERY_AGENT_CLAIM_LEASE_SECONDS": "2.5",
        "CELERY_AGENT_STORE_PATIENCE_SECONDS": "0",
        "CELERY_AGENT_LEASE_SECONDS": "10",
    }
    assert AgentSettings.from_environment(environment) == AgentSettings(
        host="127.0.0.1",
        port=0,
        address_file="/run/address",
        token_file="/run/token",
        pool="shop/images",
        lease_seconds=2.5,
        store_patience_seconds=0,
        message_lease_seconds=10,
    )


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "nan"])
def test_wrong_number_names_its_variable_and_range(value: str) -> None:
    with pytest.raises(ValueError, match="CELERY_AGENT_PORT: expected a number from 0 to 65535") as raised:
        AgentSettings.from_environment({protocol.ENV_AGENT_PORT: value})
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize(("message", "claim"), [("10", 10), ("60", 30)])
def test_claims_last_no_longer_than_messages(message: str, claim: float) -> None:
    """A message that came back early would only wait for the claim of the worker that is gone."""
    assert AgentSettings.from_environment({protocol.ENV_AGENT_LEASE: message}).lease_seconds == claim
    both = {protocol.ENV_AGENT_LEASE: message, "CELERY_AGENT_CLAIM_LEASE_SECONDS": "2"}
    assert AgentSettings.from_environment(both).lease_seconds == 2
