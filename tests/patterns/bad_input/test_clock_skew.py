"""Workers whose clocks differ by an hour share limits, locks and records, which are by the server's clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from patterns.bad_input.stage import Stage
from patterns.stage import WITHIN
from servers import RedisServer, Worker, eventually

SKEW_SECONDS = 3600

SHIFTED = """
import datetime, time
true_time = time.time
time.time = lambda: true_time() + {skew}
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Shifted
"""
"""A sitecustomize: the clock of all of a worker's processes, as far as Python reads it."""

Running = tuple[Stage, Worker, Worker]


@pytest.fixture(scope="module", params=[SKEW_SECONDS, -SKEW_SECONDS], ids=["ahead", "behind"])
def running(
    request: pytest.FixtureRequest, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A worker with the true time, and one whose clock is wrong; its queue has the suffix -wrong."""
    folder: Path = tmp_path_factory.mktemp("shifted")
    (folder / "sitecustomize.py").write_text(SHIFTED.format(skew=request.param))
    (folder / "guarded.py").write_text((Stage.APPS / "guarded.py").read_text())
    with Stage.on(redis, redis.url(0)) as stage, ExitStack() as stack:
        right = stack.enter_context(stage.worker(app="guarded:app", concurrency=2))
        queue = f"{stage.queue}-wrong"
        wrong = stack.enter_context(stage.worker(app="guarded:app", concurrency=2, python_path=folder, queues=queue))
        yield stage, right, wrong


@pytest.fixture(params=["", "-wrong"], ids=["right first", "wrong first"])
def queues(request: pytest.FixtureRequest, running: Running) -> tuple[str, str]:
    """The queue of the worker that begins, and that of the other."""
    queue = running[0].queue
    return (queue, f"{queue}-wrong") if not request.param else (f"{queue}-wrong", queue)


def send(stage: Stage, queue: str, task: str, *args: object) -> str:
    return str(stage.app.send_task(task, args, queue=queue).id)


def wait_end(running: Running, task_id: str) -> str:
    stage, right, wrong = running
    result = stage.app.AsyncResult(task_id)
    eventually(result.ready, within=WITHIN, what=lambda: f"{right.log()}\n{wrong.log()}")
    return str(result.state)


def test_worker_with_a_wrong_clock_says_so(running: Running, request: pytest.FixtureRequest) -> None:
    _, right, wrong = running
    side = "ahead of" if "ahead" in request.node.callspec.id else "behind"
    eventually(
        lambda: f"this worker's clock is {SKEW_SECONDS} s {side} that of the store" in wrong.log(), within=WITHIN
    )
    assert "this worker's clock" not in right.log()


def test_rate_is_that_of_the_fleet(running: Running, queues: tuple[str, str]) -> None:
    stage, lane = running[0], f"{queues[0]}-lane"
    sent = [send(stage, queues[number % 2], "limited", lane) for number in range(12)]
    assert Counter(wait_end(running, task_id) for task_id in sent) == {"SUCCESS": 3, "REVOKED": 9}
    assert stage.ran(lane) == 3


def test_what_one_holds_the_other_does_not_get_though_it_takes_longer_than_the_lease(
    running: Running, queues: tuple[str, str]
) -> None:
    stage = running[0]
    keys = {task: f"{queues[0]}-{task}" for task in ("alone", "paid")}
    first = [send(stage, queues[0], task, key, 3.5) for task, key in keys.items()]
    eventually(lambda: all(stage.ran(key) for key in keys.values()), within=WITHIN)
    refused: Counter[str] = Counter()
    while not any(stage.app.AsyncResult(task_id).ready() for task_id in first):
        others = [send(stage, queues[1], task, key, 0.0) for task, key in keys.items()]
        states = [wait_end(running, task_id) for task_id in others]
        if not any(stage.app.AsyncResult(task_id).ready() for task_id in first):
            refused.update(states)
    assert [wait_end(running, task_id) for task_id in first] == ["SUCCESS", "SUCCESS"]
    assert set(refused) == {"REVOKED", "FAILURE"}
    assert stage.ran(keys["paid"]) == 1


def test_what_one_has_done_the_other_does_not_do_again(running: Running, queues: tuple[str, str]) -> None:
    stage, key = running[0], f"{queues[0]}-done"
    assert [wait_end(running, send(stage, queue, "paid", key, 0.0)) for queue in queues] == ["SUCCESS", "SUCCESS"]
    assert stage.ran(key) == 1
