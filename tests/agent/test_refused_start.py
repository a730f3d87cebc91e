"""A worker whose agent cannot be what was asked for does not start: without it nobody could scale or probe it."""

from __future__ import annotations

import socket

import pytest

from agent.stage import Stage
from celery_patterns import protocol
from celery_patterns.agent.settings import ENV_CLAIM_LEASE
from servers import LOOPBACK


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (protocol.ENV_AGENT_LEASE, "soon", "a number from 3 to 3600"),
        (ENV_CLAIM_LEASE, "0", "a number from 0.3 to 3600"),
        (protocol.ENV_AGENT_PORT, "99999", "a number from 0 to 65535"),
    ],
)
def test_setting_that_is_no_number_in_its_range_ends_the_worker(
    stage: Stage, name: str, value: str, expected: str
) -> None:
    with stage.worker(env={name: value}, wait_ready=False) as worker:
        assert worker.process.wait(30) == 1
        assert (
            f"the agent cannot start: environment variable {name}: expected {expected}, got '{value}'" in worker.log()
        )
        assert "Traceback" not in worker.log()


def test_address_that_is_taken_ends_the_worker(stage: Stage) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with stage.worker(env={protocol.ENV_AGENT_PORT: str(port)}, wait_ready=False) as worker:
            assert worker.process.wait(30) == 1
            assert f"cannot listen on {LOOPBACK}:{port} (variables CELERY_AGENT_HOST and" in worker.log()
