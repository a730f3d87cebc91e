"""The Redis result backend reads what Celery and the guard in the workers write."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from celery import states

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.adapters.result_backend import RedisResultBackend
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import ResultBackendError, SpecError
from celery_operator.domain.messages import Claim, Resumption, TaskResult
from celery_operator.services.ports import ResultBackend
from celery_patterns.agent.next_retry import NextRetry
from celery_patterns.agent.store import RELEASE, Verdict
from celery_patterns.protocol import (
    CLAIM_DONE,
    CLAIM_KEEP_SECONDS,
    RetryNote,
    claim_key,
)
from contract.claims import guard
from servers import LOOPBACK, RedisKind, RedisServer, free_port, redis_server

pytestmark = pytest.mark.every_redis


def fresh(count: int = 1) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


# -------------------------------------------------------------------------------------------------------------- results


async def test_results_are_read_as_celery_stores_them(backend: ResultBackend, celery_backend: Any) -> None:
    done, failed, several, retried, begun, revoked, own, absent = fresh(8)
    celery_backend.store_result(done, {"a": [1, None, "ü"]}, states.SUCCESS)
    celery_backend.store_result(failed, LookupError("x" * 300), states.FAILURE)
    celery_backend.store_result(several, OSError(2, "no redis://me:secret@there"), states.FAILURE)
    celery_backend.store_result(retried, ValueError("again"), states.RETRY)
    celery_backend.store_result(begun, {"pid": 7, "hostname": "w@pod"}, states.STARTED)
    celery_backend.mark_as_revoked(revoked, "terminated")
    celery_backend.store_result(own, {"percent": 3}, "PROGRESS")
    results = await backend.read([done, failed, several, retried, begun, revoked, own, absent])

    def size(task_id: str) -> int:
        return len(celery_backend.get(celery_backend.get_key_for_task(task_id)))

    assert results == {
        done: TaskResult("SUCCESS", value={"a": [1, None, "ü"]}, size=size(done)),
        failed: TaskResult("FAILURE", size=size(failed), exception="LookupError", message="x" * 256),
        several: TaskResult(
            "FAILURE", size=size(several), exception="FileNotFoundError", message="(2, 'no redis://***@there')"
        ),
        retried: TaskResult("RETRY", size=size(retried), exception="ValueError", message="again"),
        begun: TaskResult("STARTED", size=size(begun), worker="w@pod"),
        revoked: TaskResult("REVOKED", size=size(revoked), exception="TaskRevokedError", message="terminated"),
        own: TaskResult("STARTED", size=size(own)),
    }


async def test_values_stay_json(backend: ResultBackend, celery_backend: Any) -> None:
    """Celery's marked values (a UUID, say) travel on to other workers as they are stored."""
    (task_id,) = fresh()
    value = uuid.UUID(int=5)
    celery_backend.store_result(task_id, [value], states.SUCCESS)
    results = await backend.read([task_id])
    assert results[task_id].value == [{"__type__": "uuid", "__value__": {"hex": value.hex}}]


async def test_a_result_that_is_not_json_is_a_failure_that_says_so(backend: ResultBackend, redis: RedisServer) -> None:
    pickled, deep, odd, fine = fresh(4)
    with redis.client(8) as client:
        client.set(f"celery-task-meta-{pickled}", b"\x80\x04}")
        client.set(f"celery-task-meta-{deep}", "[" * 200_000)
        client.set(f"celery-task-meta-{odd}", '{"status": []}')
        client.set(f"celery-task-meta-{fine}", json.dumps({"status": "SUCCESS", "result": 1}))
    results = await backend.read([pickled, deep, odd, fine])
    assert (results[fine].state, results[fine].value) == ("SUCCESS", 1)
    for unreadable in (pickled, deep, odd):
        assert (results[unreadable].state, results[unreadable].exception) == ("FAILURE", "ResultNotJson")
        assert "result_serializer=json" in results[unreadable].message


async def test_many_ids_are_read_in_chunks(backend: ResultBackend, celery_backend: Any) -> None:
    ids = fresh(450)
    for index, task_id in enumerate(ids):
        celery_backend.store_result(task_id, index, states.SUCCESS)
    results = await backend.read(ids)
    assert [results[task_id].value for task_id in ids] == list(range(450))
    assert await backend.read([]) == {}


# --------------------------------------------------------------------------------------------------------------- claims


async def test_claims_of_the_guard_are_seen_by_the_servers_clock(backend: ResultBackend, celery_backend: Any) -> None:
    alive, lapsed, done, given_back, absent = fresh(5)
    with guard(celery_backend) as store, guard(celery_backend, lease_seconds=-2.0) as late:
        store.claim(alive, 0, token="t1", worker="w1", name="n", result_seen=False)
        store.claim(done, 0, token="t2", worker="w2", name="n", result_seen=False)
        store.conclude([(store.key(done, 0), "t2", CLAIM_DONE)])
        store.claim(given_back, 0, token="t3", worker="w3", name="n", result_seen=False)
        store.conclude([(store.key(given_back, 0), "t3", RELEASE)])
        for number in range(2):
            late.claim(lapsed, 0, token=f"t{number}", worker="w4", name="n", result_seen=False)
    claims = dict(await backend.claims([alive, lapsed, done, given_back, absent]))
    ago = claims[lapsed].seconds_since_lease
    assert 2.0 <= ago < 6.0
    assert claims == {
        alive: Claim("running", worker="w1"),
        lapsed: Claim("running", worker="w4", lease_over=True, seconds_since_lease=ago, starts=2),
        done: Claim("done", worker="w2", resumption=Resumption(1)),
        given_back: Claim("returned", worker="w3"),
    }


async def test_celerys_own_retries_are_followed(backend: ResultBackend, celery_backend: Any) -> None:
    """Each retry has a claim of its own; the last one that began tells."""
    second_runs, between, both_done = fresh(3)
    with guard(celery_backend) as store:
        for task_id in (second_runs, between, both_done):
            store.claim(task_id, 0, token="t", worker="w0", name="n", result_seen=False)
            store.conclude([(store.key(task_id, 0), "t", CLAIM_DONE)])
        for task_id in (second_runs, both_done):
            store.claim(task_id, 1, token="t", worker="w1", name="n", result_seen=True)
        store.conclude([(store.key(both_done, 1), "t", CLAIM_DONE)])
    assert await backend.claims([second_runs, between, both_done]) == {
        second_runs: Claim("running", worker="w1", resumption=Resumption(1)),
        between: Claim("done", worker="w0", resumption=Resumption(1)),
        both_done: Claim("done", worker="w1", resumption=Resumption(2)),
    }


async def test_a_claim_tells_when_celerys_retry_is_due_and_what_its_message_carries(
    backend: ResultBackend, celery_backend: Any, redis: RedisServer
) -> None:
    """Whoever holds that message may lose it; the claim is kept for as long after that time as any other."""
    due, later, given_back = fresh(3)
    note = RetryNote("slow", {"attempt": 2, "deferrals": 1})
    with guard(celery_backend) as store:
        for task_id, seconds in ((due, 0.0), (later, 2 * CLAIM_KEEP_SECONDS), (given_back, 0.0)):
            store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
            assert not store.note_retry(store.key(task_id, 0), "another", NextRetry(9.0))
            assert store.note_retry(store.key(task_id, 0), "t", NextRetry(seconds, note))
            store.renew([(store.key(task_id, 0), "t")])
            store.conclude([(store.key(task_id, 0), "t", CLAIM_DONE)])
        store.claim(given_back, 1, token="u", worker="w", name="n", result_seen=True)
        store.conclude([(store.key(given_back, 1), "u", RELEASE)])
    claims = dict(await backend.claims([due, later, given_back]))
    overdue = [claims[task_id].retry_overdue_seconds or 0.0 for task_id in (due, later)]
    assert 0.0 <= overdue[0] < 10.0
    assert -2.0 * CLAIM_KEEP_SECONDS <= overdue[1] < -2.0 * CLAIM_KEEP_SECONDS + 10.0
    following = Resumption(1, "slow", {"attempt": 2, "deferrals": 1})
    assert claims == {
        due: Claim("done", worker="w", resumption=following, retry_overdue_seconds=overdue[0]),
        later: Claim("done", worker="w", resumption=following, retry_overdue_seconds=overdue[1]),
        given_back: Claim("returned", worker="w", resumption=following),
    }
    with redis.client(8) as client:
        left: Any = [client.ttl(claim_key(task_id)) for task_id in (due, later)]
    assert [CLAIM_KEEP_SECONDS - 10 < left[0] <= CLAIM_KEEP_SECONDS, left[1] > 3 * CLAIM_KEEP_SECONDS - 10] == [
        True
    ] * 2


async def test_a_claim_tells_of_an_end_that_stored_no_result(backend: ResultBackend, celery_backend: Any) -> None:
    (task_id,) = fresh()
    with guard(celery_backend) as store:
        store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        store.conclude([(store.key(task_id, 0), "t", f"{CLAIM_DONE} Reject")])
        answer = store.claim(task_id, 0, token="u", worker="w", name="n", result_seen=False)
    assert answer.verdict is Verdict.ENDED
    assert await backend.claims([task_id]) == {
        task_id: Claim("done", worker="w", resumption=Resumption(1), rejected="Reject")
    }


async def test_a_claim_of_an_older_agent_tells_since_when_it_is_done(
    backend: ResultBackend, celery_backend: Any
) -> None:
    (task_id,) = fresh()
    with guard(celery_backend, lease_seconds=-3.0) as store:
        store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        store.conclude([(store.key(task_id, 0), "t", CLAIM_DONE)])
    claim = (await backend.claims([task_id]))[task_id]
    assert 3.0 <= claim.seconds_since_lease < 10.0
    assert claim.retry_overdue_seconds is None


# -------------------------------------------------------------------------------------------------------------- abandon


async def test_what_was_never_begun_or_lapsed_can_never_begin_any_more(
    backend: ResultBackend, celery_backend: Any, redis: RedisServer
) -> None:
    never, lapsed, given_back = fresh(3)
    with guard(celery_backend) as store, guard(celery_backend, lease_seconds=-1.0) as late:
        late.claim(lapsed, 0, token="t", worker="w", name="n", result_seen=False)
        store.claim(given_back, 0, token="t", worker="w", name="n", result_seen=False)
        store.conclude([(store.key(given_back, 0), "t", RELEASE)])
        assert await backend.abandon([never, lapsed, given_back]) == {never, lapsed, given_back}
        for task_id in (never, lapsed, given_back):
            answer = store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
            assert answer.verdict is Verdict.ENDED
        # The worker that was thought dead cannot renew either.
        assert store.renew([(store.key(lapsed, 0), "t")]) == [0]
    assert await backend.claims([never]) == {never: Claim("abandoned", starts=0)}
    assert await backend.abandon([never]) == {never}
    with redis.client(8) as client:
        ttl: Any = client.ttl(claim_key(never))
    assert CLAIM_KEEP_SECONDS - 10 < ttl <= CLAIM_KEEP_SECONDS


async def test_what_runs_or_ended_is_not_abandoned(backend: ResultBackend, celery_backend: Any) -> None:
    running, done = fresh(2)
    with guard(celery_backend) as store:
        for task_id in (running, done):
            store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        store.conclude([(store.key(done, 0), "t", CLAIM_DONE)])
        assert await backend.abandon([running, done]) == frozenset()
        assert store.renew([(store.key(running, 0), "t")]) == [1]


@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE, states.REVOKED])
@pytest.mark.parametrize("claimed", [True, False])
async def test_a_stored_end_is_never_abandoned(
    backend: ResultBackend, celery_backend: Any, state: str, *, claimed: bool
) -> None:
    """Not even if the worker died between storing the result and ending its claim, or had no guard at all."""
    (task_id,) = fresh()
    with guard(celery_backend, lease_seconds=-1.0) as late:
        if claimed:
            late.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        celery_backend.store_result(task_id, ValueError("x" * 100) if state != states.SUCCESS else "x" * 100, state)
        assert await backend.abandon([task_id]) == frozenset()


async def test_an_unreadable_result_is_somebodys(backend: ResultBackend, redis: RedisServer) -> None:
    pickled, reordered = fresh(2)
    with redis.client(8) as client:
        client.set(f"celery-task-meta-{pickled}", b"\x80\x04}")
        client.set(f"celery-task-meta-{reordered}", json.dumps({"result": 1, "status": "STARTED"}))
    assert await backend.abandon([pickled, reordered]) == {reordered}


async def test_an_attempt_between_two_of_celerys_retries_is_abandoned_at_the_next(
    backend: ResultBackend, celery_backend: Any
) -> None:
    (task_id,) = fresh()
    with guard(celery_backend) as store:
        store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        celery_backend.store_result(task_id, ValueError("again"), states.RETRY)
        store.conclude([(store.key(task_id, 0), "t", CLAIM_DONE)])
        assert await backend.abandon([task_id]) == {task_id}
        assert store.claim(task_id, 1, token="t", worker="w", name="n", result_seen=True).verdict is Verdict.ENDED


async def test_a_retry_that_runs_is_not_abandoned(backend: ResultBackend, celery_backend: Any) -> None:
    (task_id,) = fresh()
    with guard(celery_backend) as store:
        store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
        celery_backend.store_result(task_id, ValueError("again"), states.RETRY)
        store.conclude([(store.key(task_id, 0), "t", CLAIM_DONE)])
        store.claim(task_id, 1, token="t", worker="w", name="n", result_seen=True)
        assert await backend.abandon([task_id]) == frozenset()


async def test_claiming_and_abandoning_at_once_has_one_winner(backend: ResultBackend, celery_backend: Any) -> None:
    ids = fresh(100)
    with guard(celery_backend) as store:

        def claim_all() -> set[str]:
            taken = set()
            for task_id in ids:
                answer = store.claim(task_id, 0, token="t", worker="w", name="n", result_seen=False)
                if answer.verdict is Verdict.CLAIMED:
                    taken.add(task_id)
            return taken

        async def abandon_all() -> set[str]:
            abandoned: set[str] = set()
            for task_id in reversed(ids):
                abandoned |= await backend.abandon([task_id])
            return abandoned

        claimed, abandoned = await asyncio.gather(asyncio.to_thread(claim_all), abandon_all())
    assert not claimed & abandoned
    assert claimed | abandoned == set(ids)


# --------------------------------------------------------------------------------------------------------------- faults


async def _fails(backend: ResultBackend) -> list[ResultBackendError]:
    calls: Any = (backend.check(), backend.read(["a"]), backend.claims(["a"]), backend.abandon(["a"]))
    async with asyncio.timeout(4):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, ResultBackendError)]
    assert len(errors) == len(calls), answers
    return errors


async def test_an_unreachable_backend_is_an_error_without_credentials() -> None:
    port = free_port()
    backend = RedisResultBackend(f"redis://me:secret@{LOOPBACK}:{port}/0")
    for error in await _fails(backend):
        assert error.reason == Reason.CONNECTION_FAILED
        assert f"redis://***@{LOOPBACK}:{port}/0" in error.message
        assert "secret" not in error.message
    await backend.close()


async def test_a_silent_backend_is_an_error_within_four_seconds(silent_port: int) -> None:
    backend = RedisResultBackend(f"redis://{LOOPBACK}:{silent_port}/0")
    for error in await _fails(backend):
        assert error.reason == Reason.CONNECTION_FAILED
    await backend.close()


async def test_a_wrong_password_has_its_own_reason(redis_kind: RedisKind) -> None:
    with redis_server("--user", "someone", "on", ">right", "~*", "&*", "+@all", kind=redis_kind) as server:
        backend = RedisResultBackend(f"redis://someone:wrong@{LOOPBACK}:{server.port}/0")
        for error in await _fails(backend):
            assert error.reason == Reason.AUTHENTICATION_FAILED
            assert "someone:wrong" not in error.message
        await backend.close()
        good = RedisResultBackend(f"redis://someone:right@{LOOPBACK}:{server.port}/0")
        await good.check()
        await good.close()


async def test_the_same_url_gives_the_same_backend(redis: RedisServer) -> None:
    connections = CeleryConnections(SystemClock())
    assert connections.result_backend(redis.url(1)) is connections.result_backend(redis.url(1))
    assert connections.result_backend(redis.url(1)) is not connections.result_backend(redis.url(2))
    await connections.close_all()


@pytest.mark.parametrize(
    "url", ["db+sqlite:///x", "rpc://", "mongodb://h", "redis://h/x", "nonsense", "redis://a;redis://b"]
)
def test_backends_that_are_not_served_are_refused_by_name(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        CeleryConnections(SystemClock()).result_backend(url)
    assert caught.value.reason == Reason.UNSUPPORTED_BACKEND
    assert "redis://" in caught.value.message
