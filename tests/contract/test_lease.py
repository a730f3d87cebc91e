"""One of several candidates leads; the lease goes on at once when it is given back, and in its time when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.lease import LeaderElection, LeadershipLost, LeaseTimes
from celery_operator.adapters.watchdog import EXIT_LEASE_LOST, Watchdog
from celery_operator.services.ports import ObjectKey
from contract.api_server import ApiServer, refuse
from contract.patience import until

KEY = ObjectKey("here", "lease")
PATH = "/apis/coordination.k8s.io/v1/namespaces/here/leases/lease"
TIMES = LeaseTimes(duration=3.0, deadline=1.5, retry=0.1, look=0.05)
"""Where it is to be lost: soon, but between the two times a busy machine may stand still for a second."""
PATIENT = LeaseTimes(duration=8.0, deadline=6.0, retry=0.1, look=0.05)
"""Where nobody is to lose it: the machine may stand still for a second."""


@pytest.fixture
async def candidate(api: ApiConnection) -> AsyncIterator[Callable[..., LeaderElection]]:
    watchdogs: list[Watchdog] = []

    def make(identity: str, times: LeaseTimes = TIMES) -> LeaderElection:
        clock = SystemClock()
        # Tests of the exit use a process of their own; here a strike shows as LeadershipLost.
        watchdogs.append(Watchdog(times.deadline, clock.monotonic, lambda: None, look_every_seconds=0.01))
        return LeaderElection(api, KEY, identity, clock=clock, watchdog=watchdogs[-1], times=times)

    yield make
    for watchdog in watchdogs:
        watchdog.stop()


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LeadershipLost):
            await task


def spec(server: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.objects[PATH]["spec"]
    return found


async def test_the_first_candidate_creates_the_lease_and_leads(server: ApiServer, candidate: Any) -> None:
    first = candidate("one")
    assert not first.leads
    await first.acquire()
    assert first.leads
    written = spec(server)
    assert written["renewTime"] == written["acquireTime"]
    assert (written["holderIdentity"], written["leaseDurationSeconds"], written["leaseTransitions"]) == ("one", 3, 0)


async def test_the_second_waits_as_long_as_the_first_renews(server: ApiServer, candidate: Any) -> None:
    first, second = candidate("one", PATIENT), candidate("two", PATIENT)
    await first.acquire()
    acquired = spec(server)["acquireTime"]
    async with running(first.hold()), running(second.acquire()) as waiting:
        renewals = {spec(server)["renewTime"]}

        async def often() -> bool:
            renewals.add(spec(server)["renewTime"])
            return len(renewals) > 15

        await until(often)
        assert not waiting.done()
        assert (first.leads, second.leads) == (True, False)
    assert spec(server)["acquireTime"] == acquired


async def test_a_lease_given_back_is_taken_at_once(server: ApiServer, candidate: Any) -> None:
    first, second = candidate("one", PATIENT), candidate("two", PATIENT)
    await first.acquire()
    async with running(second.acquire()) as waiting:
        await until(lambda: asyncio.sleep(0, second.transitions == 0 and bool(second._seen_holder)))
        await first.release()
        assert not first.leads
        await asyncio.wait_for(waiting, PATIENT.duration / 2)
    assert second.leads
    assert (spec(server)["holderIdentity"], spec(server)["leaseTransitions"], second.transitions) == ("two", 1, 1)


async def test_a_lease_that_is_not_renewed_goes_on_after_its_duration(server: ApiServer, candidate: Any) -> None:
    first, second = candidate("one"), candidate("two")
    await first.acquire()
    begun = asyncio.get_running_loop().time()
    await asyncio.wait_for(second.acquire(), 10)
    assert asyncio.get_running_loop().time() - begun >= TIMES.duration
    assert (first.leads, second.leads) == (False, True)
    assert spec(server)["leaseTransitions"] == 1


async def test_whoever_lost_the_lease_learns_it_when_it_renews(server: ApiServer, candidate: Any) -> None:
    first = candidate("one", PATIENT)
    await first.acquire()
    taken = {**server.objects[PATH], "spec": {**spec(server), "holderIdentity": "two", "renewTime": "later"}}
    server.put(PATH, taken)
    with pytest.raises(LeadershipLost, match="held by two"):
        await asyncio.wait_for(first.hold(), 10)
    assert not first.leads


async def test_a_leader_that_cannot_renew_ends_before_the_lease_does(server: ApiServer, candidate: Any) -> None:
    first = candidate("one")
    await first.acquire()
    begun = asyncio.get_running_loop().time()
    server.faults = [refuse(403)] * 10_000
    with pytest.raises(LeadershipLost, match="not renewed"):
        await asyncio.wait_for(first.hold(), 10)
    assert asyncio.get_running_loop().time() - begun < TIMES.duration
    assert not first.leads


async def test_passing_trouble_costs_nothing(server: ApiServer, candidate: Any) -> None:
    first = candidate("one", PATIENT)
    await first.acquire()
    server.faults = [refuse(403), refuse(403)]
    async with running(first.hold()) as holding:
        renewed = spec(server)["renewTime"]
        await until(lambda: asyncio.sleep(0, spec(server)["renewTime"] != renewed))
        assert (holding.done(), first.leads) == (False, True)


async def test_somebodys_annotation_does_not_cost_the_lease(server: ApiServer, candidate: Any) -> None:
    first = candidate("one", PATIENT)
    await first.acquire()
    server.put(PATH, {**server.objects[PATH], "metadata": {**server.objects[PATH]["metadata"], "labels": {"a": "b"}}})
    async with running(first.hold()) as holding:
        renewed = spec(server)["renewTime"]
        await until(lambda: asyncio.sleep(0, spec(server)["renewTime"] != renewed))
        assert (holding.done(), first.leads) == (False, True)


async def test_holding_ends_when_cancelled_even_in_the_moment_of_an_answer(
    candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that is told to end would go on to lead."""
    first = candidate("one", PATIENT)
    await first.acquire()

    async def answered() -> None:
        asyncio.get_running_loop().call_soon(holding.cancel)

    monkeypatch.setattr(first, "_step", answered)
    holding = asyncio.create_task(first.hold())
    await asyncio.wait({holding}, timeout=2)
    assert holding.cancelled()


async def test_an_api_server_that_fails_at_first_only_delays(server: ApiServer, candidate: Any) -> None:
    server.faults = [refuse(403), refuse(403)]
    await asyncio.wait_for(candidate("one").acquire(), 5)


async def test_of_many_that_want_it_at_once_one_leads(candidate: Any) -> None:
    candidates = [candidate(f"c{index}", PATIENT) for index in range(8)]
    tasks = [asyncio.create_task(each.acquire()) for each in candidates]
    _, others = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(others, timeout=0.4)  # time enough for each to ask, and to see who leads
    assert sum(each.leads for each in candidates) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_process_that_was_stopped_past_its_lease_does_nothing_more(
    server: ApiServer, candidate: Any, tmp_path: Path
) -> None:
    """It is continued when another leads, and ends at once, without having acted as a leader again."""
    script = Path(__file__).with_name("lease_candidate.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(server.kubeconfig(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert (await asyncio.wait_for(process.stdout.readline(), 20)).startswith(b"acted")
        process.send_signal(signal.SIGSTOP)
        await asyncio.wait_for(candidate("successor").acquire(), 10)
        continued_at = SystemClock().monotonic()
        process.send_signal(signal.SIGCONT)
        rest = await asyncio.wait_for(process.stdout.read(), 10)
        assert await asyncio.wait_for(process.wait(), 10) == EXIT_LEASE_LOST
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert [line for line in rest.splitlines() if float(line.split()[1]) >= continued_at] == []


async def test_a_leader_whose_event_loop_is_stuck_ends(server: ApiServer, tmp_path: Path) -> None:
    """The watchdog is a thread: it does not need the loop."""
    code = (
        "import asyncio, sys, time\n"
        "from celery_operator.adapters.clock import SystemClock\n"
        "from celery_operator.adapters.kubernetes.connection import ApiConnection\n"
        "from celery_operator.adapters.lease import LeaderElection, LeaseTimes\n"
        "from celery_operator.services.ports import ObjectKey\n"
        "async def main():\n"
        "    api = await ApiConnection.open(sys.argv[1])\n"
        "    times = LeaseTimes(duration=2.0, deadline=0.5, retry=0.1)\n"
        "    await LeaderElection(api, ObjectKey('here', 'lease'), 'x', clock=SystemClock(), times=times).acquire()\n"
        "    time.sleep(30)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(server.kubeconfig(tmp_path)))
    try:
        assert await asyncio.wait_for(process.wait(), 20) == EXIT_LEASE_LOST
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
