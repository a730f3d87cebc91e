"""The agent in plain images whose workers run on threads, greenlets, or in one process alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.stage import Stage
from agent.test_injected import RELEASES, Injected, volume
from celery_patterns import protocol
from servers import RedisServer, eventually
from stock_images import BUILD_SECONDS, oldest_python, stock_environment

__all__ = ["volume"]

pytestmark = pytest.mark.timeout(BUILD_SECONDS + 60)
"""The first run makes the environments."""


@pytest.fixture(scope="module", params=RELEASES)
def image(request: pytest.FixtureRequest, volume: Path) -> Injected:
    requirements = (f"celery[redis]=={request.param}", "gevent", "eventlet")
    return Injected(stock_environment(*requirements, python=oldest_python()), volume)


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_attempts_run_once_are_counted_and_drained(
    image: Injected, redis: RedisServer, stack: ExitStack, pool: str
) -> None:
    stage = Stage(broker=redis, results=redis, stack=stack)
    with image.worker(stage, pool=pool) as worker:
        ear = stage.ear()
        sent = stage.send(stage.identity(), "shop.add", 2, 3)
        assert ear.wait(sent, protocol.SUCCESS).value == 5, worker.log()
        assert worker.state().slots == (1 if pool == "solo" else 2)
        stage.send(sent, "shop.add", 2, 3)
        stage.send_plain("shop.fail", "x")
        expected = {"SUCCESS": 1, "FAILURE": 1, "DROPPED": 1}
        eventually(lambda: worker.state().finished == expected, what=lambda: f"{worker.state()} {worker.log()}")
        assert worker.children() == [], "it has no processes but this one"
        nap = stage.send(stage.identity("nap"), "shop.nap", 1)
        ear.wait(nap, protocol.STARTED)
        worker.drain()
        eventually(lambda: worker.state().drained, what=worker.log)
        assert ear.about(nap)[-1].state == protocol.SUCCESS
