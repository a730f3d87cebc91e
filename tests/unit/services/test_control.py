"""The controller: every trigger runs the same function, one object's trouble is not another's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from celery_operator.domain.errors import ClusterError, Gone
from celery_operator.services import control
from celery_operator.services.control import Controller
from celery_operator.services.ports import Manifest, ObjectKey
from servers_process import PATIENCE

POOL = "CeleryWorkerPool"


class Recorder:
    """A reconciler and an engine that note what they are told."""

    def __init__(self, *, delay: float = 60.0) -> None:
        self.reconciled: list[tuple[str, int]] = []
        self.forgotten: list[ObjectKey] = []
        self.forgotten_uids: list[str | None] = []
        self.observed: list[str] = []
        self.delay = timedelta(seconds=delay)
        self.errors: list[BaseException] = []

    async def reconcile(self, manifest: Manifest) -> timedelta:
        self.reconciled.append((manifest["metadata"]["name"], manifest["metadata"]["generation"]))
        if self.errors:
            raise self.errors.pop(0)
        return self.delay

    def observe(self, manifest: Manifest) -> None:
        self.observed.append(manifest["metadata"]["name"])

    def forget(self, key: ObjectKey, uid: str | None = None) -> None:
        self.forgotten.append(key)
        self.forgotten_uids.append(uid)


def pool(name: str = "p", generation: int = 1, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"namespace": "n", "name": name, "uid": uid, "generation": generation}}


async def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE * 5.0  # noqa: TID251 - a deadline of the test itself
    while not check():
        assert time.monotonic() < deadline  # noqa: TID251
        await asyncio.sleep(0.002)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def controller(recorder: Recorder) -> Controller:
    return Controller(reconcilers={POOL: recorder}, workflows=recorder)


async def test_a_new_object_and_a_changed_spec_are_looked_at_at_once(
    controller: Controller, recorder: Recorder
) -> None:
    controller.observe(POOL, pool())
    await until(lambda: recorder.reconciled == [("p", 1)])
    controller.observe(POOL, pool(generation=2))
    await until(lambda: recorder.reconciled == [("p", 1), ("p", 2)])
    await controller.close()


async def test_a_status_that_changed_wakes_nobody_and_an_older_object_is_not_taken(
    controller: Controller, recorder: Recorder
) -> None:
    controller.observe(POOL, pool(generation=2))
    await until(lambda: len(recorder.reconciled) == 1)
    controller.observe(POOL, pool(generation=2))
    controller.observe(POOL, pool(generation=1))
    controller.wake(POOL, ObjectKey("n", "p"))
    await until(lambda: len(recorder.reconciled) == 2)
    assert recorder.reconciled == [("p", 2), ("p", 2)]
    await controller.close()


async def test_a_pool_is_looked_at_again_after_the_time_it_asked_for() -> None:
    recorder = Recorder(delay=0.01)
    controller = Controller(reconcilers={POOL: recorder}, workflows=recorder)
    controller.observe(POOL, pool())
    await until(lambda: len(recorder.reconciled) >= 3)
    await controller.close()


@pytest.mark.parametrize("error", [ClusterError("away"), RuntimeError("a defect")])
async def test_an_error_is_tried_again_and_stops_nobody_else(
    recorder: Recorder, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "FIRST_RETRY", timedelta(seconds=0.01))
    controller = Controller(reconcilers={POOL: recorder}, workflows=recorder)
    recorder.errors = [error]
    controller.observe(POOL, pool("bad"))
    controller.observe(POOL, pool("good"))
    await until(lambda: recorder.reconciled.count(("bad", 1)) == 2 and ("good", 1) in recorder.reconciled)
    await controller.close()


async def test_a_deleted_object_is_forgotten_and_its_loop_ends(controller: Controller, recorder: Recorder) -> None:
    controller.observe(POOL, pool())
    await until(lambda: len(recorder.reconciled) == 1)
    controller.observe(POOL, pool(), deleted=True)
    controller.wake(POOL, ObjectKey("n", "p"))
    assert recorder.forgotten == [ObjectKey("n", "p")]
    controller.observe(POOL, pool(generation=1, uid="another"))
    await until(lambda: len(recorder.reconciled) == 2)
    await controller.close()


async def test_the_end_of_an_earlier_object_of_the_same_name_ends_only_that(
    controller: Controller, recorder: Recorder
) -> None:
    controller.observe(POOL, pool(uid="old"))
    await until(lambda: len(recorder.reconciled) == 1)
    controller.observe(POOL, pool(uid="new"))
    await until(lambda: len(recorder.reconciled) == 2)
    controller.observe(POOL, pool(uid="old"), deleted=True)
    controller.observe(POOL, pool(uid="new", generation=2))
    await until(lambda: recorder.reconciled[2:] == [("p", 2)])
    assert recorder.forgotten == []
    await controller.close()


async def test_an_object_whose_deletion_nobody_reported_is_forgotten_as_soon_as_it_is_missed(
    controller: Controller, recorder: Recorder
) -> None:
    recorder.errors = [Gone("deleted while the watch was interrupted")]
    controller.observe(POOL, pool())
    await until(lambda: recorder.forgotten == [ObjectKey("n", "p")])
    controller.observe(POOL, pool(uid="another"))
    await until(lambda: recorder.reconciled == [("p", 1), ("p", 1)])
    await controller.close()


async def test_objects_that_wait_for_a_slow_server_hold_up_nobody_else(recorder: Recorder) -> None:
    never = asyncio.Event()

    class Slow(Recorder):
        @override
        async def reconcile(self, manifest: Manifest) -> timedelta:
            if manifest["metadata"]["name"] != "quick":
                await never.wait()
            return await super().reconcile(manifest)

    slow = Slow()
    controller = Controller(reconcilers={POOL: slow}, workflows=recorder)
    for number in range(200):
        controller.observe(POOL, pool(f"slow-{number}"))
    controller.observe(POOL, pool("quick"))
    await until(lambda: slow.reconciled == [("quick", 1)])
    await controller.close()


async def test_workflows_go_to_their_engine(controller: Controller, recorder: Recorder) -> None:
    controller.observe("CeleryWorkflow", pool("w"))
    controller.observe("CeleryWorkflow", pool("w"), deleted=True)
    assert recorder.observed == ["w"]
    assert (recorder.forgotten, recorder.forgotten_uids) == ([ObjectKey("n", "w")], ["u"])
    await controller.close()
