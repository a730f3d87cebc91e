"""What a killed worker held starts again within the lease, and nothing starts twice because it lasts long."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis as redis_transport

from agent.held import Held
from agent.stage import LEDGER_DB, RESULT_DB, Stage
from celery_patterns import protocol
from celery_patterns.agent import lease
from celery_patterns.agent.lease import Lease
from celery_patterns.examples.ledger import LEDGER_KEY
from servers import RedisServer, celery_worker, eventually, redis_server

pytestmark = pytest.mark.every_redis

LEASE_SECONDS = 3
LEASE = {protocol.ENV_AGENT_LEASE: str(LEASE_SECONDS)}
VISIBILITY = {"TEST_VISIBILITY_SECONDS": "2"}
"""A timeout that the tasks below outlast."""


@pytest.fixture
def alone(stack: ExitStack) -> Stage:
    """A stage on a Redis of its own: leases concern all workers of a database."""
    server = stack.enter_context(redis_server())
    return Stage(broker=server, results=server, stack=stack)


def begun(stage: Stage, key: str) -> list[float]:
    """Return when a task's runs began."""
    with stage.broker.client(LEDGER_DB) as client:
        lines: Any = client.lrange(LEDGER_KEY, 0, -1)
    entries = [json.loads(line) for line in lines]
    return [entry["at"] for entry in entries if (entry["key"], entry["event"]) == (key, "start")]


def soon(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)  # noqa: TID251 - a real eta


def test_what_killed_workers_held_starts_again_within_the_lease_and_five_seconds(alone: Stage) -> None:
    """No workflow's tasks, so that only the broker brings them back; killed in the first moments after they began."""
    pools = ("prefork", "threads", "solo", "gevent", "eventlet")
    kept = [*pools, "waits behind", "scheduled"]
    with ExitStack() as stack:
        doomed = [stack.enter_context(alone.worker(pool=pool, queues=pool, env=LEASE)) for pool in pools]
        early = stack.enter_context(
            alone.worker(queues="early", env=LEASE, arguments=["--prefetch-multiplier", "4"], wait_ready=True)
        )
        assert [worker.state().lease_seconds for worker in (*doomed, early)] == [3, 3, 3, 3, 3, 3]
        for key in ("acknowledged", "waits behind"):
            alone.send_plain("examples.ledger.record_early", key, 60, queue="early")
        alone.send_plain("examples.ledger.record", "scheduled", queue="early", eta=soon(4))
        for pool in pools:
            alone.send_plain("examples.ledger.record", pool, 60, queue=pool)
        for key in (*pools, "acknowledged"):
            alone.wait_ledger(key, "start", within=20)
        early.wait_state(lambda state: (state.reserved, state.scheduled) == (1, 1))
        killed = time.time()  # noqa: TID251 - compared with what the tasks noted
        for worker in (*doomed, early):
            worker.kill()
    queues = ",".join((*pools, "early"))
    with alone.worker(pool="threads", concurrency=len(kept), queues=queues, env=LEASE) as heir:
        for key in kept:
            alone.wait_ledger(key, "start", times=1 if key in ("waits behind", "scheduled") else 2, within=20)
        assert heir.log().count("has been silent for 3 s") == len(kept)
        late = {key: round(begun(alone, key)[-1] - killed, 1) for key in kept}
        assert {key: seconds for key, seconds in late.items() if seconds > LEASE_SECONDS + 5} == {}
        assert min(late.values()) >= LEASE_SECONDS - lease.RENEW_SECONDS - 0.5, "taken from a worker that might live"
        assert len(begun(alone, "acknowledged")) == 1, "acknowledged before it ran, it is lost with its worker"
        heir.kill()


def test_nothing_starts_twice_because_it_lasts_or_waits_long(
    alone: Stage, stack: ExitStack, once: Counter[str]
) -> None:
    """Running, waiting behind it, and held for later: longer than the timeout, with and without a lease of one's own.

    Beside them, a consumer without an agent has the same short timeout, and gives back what it may.
    """
    server = stack.enter_context(redis_server())
    stages = {
        "lease": (alone, LEASE | VISIBILITY),
        "timeout": (Stage(broker=server, results=server, stack=stack), VISIBILITY),
    }
    keys = [f"k{index}" for index in range(4)]
    for stage, env in stages.values():
        for pool in ("prefork", "gevent"):
            stack.enter_context(stage.worker(pool=pool, env=env, arguments=["--prefetch-multiplier", "4"]))
        stack.enter_context(stage.worker(queues="other", env=VISIBILITY, agent=False))
        for key in keys:
            stage.send_plain("examples.ledger.record", key, 4)
        stage.send_plain("examples.ledger.record", "later", 0, eta=soon(5))
    for stage, _ in stages.values():
        for key in (*keys, "later"):
            stage.wait_ledger(key, "finish", within=25)
    found = {name: {key: stage.ledger()[key] for key in (*keys, "later")} for name, (stage, _) in stages.items()}
    assert found == dict.fromkeys(stages, dict.fromkeys((*keys, "later"), once))


def test_consumer_without_an_agent_keeps_its_hour(alone: Stage, once: Counter[str]) -> None:
    with (
        alone.worker(queues="stock", agent=False),
        alone.worker(env=LEASE, queues=f"{alone.queue},stock-too") as leased,
    ):
        alone.send_plain("examples.ledger.record", "stock", LEASE_SECONDS + 3, queue="stock")
        alone.wait_ledger("stock", "start")
        assert alone.broker_client.zcard("unacked_index") == 1
        alone.send_plain("examples.ledger.record", "leased", LEASE_SECONDS + 2)
        alone.wait_ledger("leased", "start")
        assert (alone.broker_client.zcard("unacked_index:leased"), leased.state().lease_seconds) == (1, 3)
        for key in ("leased", "stock"):
            alone.wait_ledger(key, "finish")
        assert [alone.ledger()[key] for key in ("leased", "stock")] == [once, once]
        assert "silent" not in leased.log()


# ---------------------------------------------------------------------------------------- the scripts, without workers


@pytest.fixture(params=["", "shop:"], ids=["no prefix", "prefix"])
def held(redis: RedisServer, stack: ExitStack, request: pytest.FixtureRequest) -> Iterator[Held]:
    yield (held := Held(redis, stack, request.param))
    held.client.flushdb()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look may follow the first at once."""
    monkeypatch.setattr(lease, "CONFIRM_SECONDS", 0)


@pytest.mark.usefixtures("at_once")
def test_message_whose_lease_is_over_goes_back_once_whoever_looks(held: Held) -> None:
    tag = held.take("a")
    held.take("b")
    held.noted(tag, 10.5)
    assert held.look() == [], "seen once is not enough"
    assert (held.look(), held.look(1)) == ([tag], [tag])
    assert [held.brokers[which].give_back(tag, 10) for which in (1, 0, 1)] == ["t[a]", "", ""]
    assert held.waiting() == ["a"]
    assert (held.client.hlen(f"{held.prefix}unacked:leased"), held.client.zcard(held.index)) == (1, 1)
    assert held.queue.get().headers["redelivered"] is True


@pytest.mark.usefixtures("at_once")
def test_message_that_is_renewed_meanwhile_stays(held: Held) -> None:
    tag = held.take()
    held.noted(tag, 3600)
    held.look()
    assert held.look() == [tag]
    held.brokers[0].renew([tag])
    assert held.brokers[1].give_back(tag, 10) == ""
    assert held.look() == []
    held.noted(tag, 3600)
    assert held.look() == [], "the renewal has cleared the suspicion"


def test_clock_that_is_wrong_decides_nothing(held: Held) -> None:
    """A worker an hour behind notes a message with its own time, and renews it with the server's a moment later."""
    tag = held.take()
    held.noted(tag, 3600)
    assert [held.look(), held.look()] == [[], []], "the two looks are too close to each other"
    held.brokers[0].renew([tag])
    assert abs(float(held.client.zscore(held.index, tag)) - held.now()) < 2
    held.noted(tag, -3600)
    held.look()
    assert abs(float(held.client.zscore(held.index, tag)) - held.now()) < 2, "a time in the future is corrected"


@pytest.mark.usefixtures("at_once")
def test_acknowledged_message_never_returns_and_leaves_nothing(held: Held) -> None:
    tag = held.take()
    held.client.hdel(f"{held.prefix}unacked:leased", tag)  # acknowledged; a closing channel leaves the index behind
    held.noted(tag, 60)
    assert [held.look(), held.look()] == [[], []]
    assert held.client.zcard(held.index) == 0
    held.brokers[0].renew([tag])
    assert held.client.zcard(held.index) == 0
    assert held.waiting() == []


def test_workers_take_turns_to_look_and_what_they_note_goes_away_by_itself(held: Held) -> None:
    tag = held.take()
    held.noted(tag, 60)
    held.look()
    assert held.brokers[1].look(10) == []
    assert 0 < held.client.pttl(f"{held.index}:turn") <= 900
    assert 0 < held.client.ttl(f"{held.index}:suspects") <= 60


def test_message_that_cannot_be_put_back_stays_where_it_is(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = held.take()
    held.noted(tag, 60)
    monkeypatch.setattr(held.brokers[0]._channel, "_lookup", lambda *_: [])
    assert held.brokers[0].give_back(tag, 10) == ""
    assert held.client.hlen(f"{held.prefix}unacked:leased") == 1


# ------------------------------------------------------------------------------------------------------------ refusals


def refused(app: Celery) -> str:
    before = dict(app.conf.broker_transport_options)
    kept = Lease(app, 10)
    assert (kept.seconds, kept.renews) == (None, False)
    assert app.conf.broker_transport_options == before
    return kept.refusal


def test_broker_without_leases_is_named(stage: Stage) -> None:
    assert refused(Celery(broker="amqp://nowhere//")) == (
        "the broker is no Redis, and gives back what a lost connection held at once"
    )
    app = Celery(broker="redis://nowhere/0", broker_transport_options={"ack_emulation": False})
    assert refused(app) == "the transport option ack_emulation is off: nothing notes what a worker holds"
    with celery_worker(
        broker="amqp://127.0.0.1:1//",
        backend=stage.results.url(RESULT_DB),
        pool="solo",
        env=LEASE,
        wait_ready=False,
    ) as worker:
        eventually(lambda: worker.request(protocol.PATH_LIVE)[0] == 200, what=worker.log)
        assert worker.state().lease_refusal.startswith("the broker is no Redis")
        assert worker.log().count("no lease of the messages that this worker holds") == 1


@pytest.mark.parametrize("change", ["no table", "another table", "no way back"])
def test_another_kombu_is_left_alone(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """The contract with kombu's private parts: where it does not hold, the broker's own rule stays."""
    app = Celery(broker="redis://nowhere/0")
    assert Lease(app, None).renews
    if change == "no way back":
        monkeypatch.setattr(redis_transport.Channel, "_do_restore_message", None)
    else:
        delivered = {} if change == "no table" else {"_delivered": {}, "_dirty": set(), "_quick_append": print}
        monkeypatch.setattr(redis_transport, "QoS", lambda **_: SimpleNamespace(**delivered))
    assert refused(app) == "this release of kombu notes in another way what a worker holds"


def test_lease_changes_only_the_names_of_keys() -> None:
    options = {"visibility_timeout": 60, "unacked_key": "mine", "global_keyprefix": "p:"}
    app = Celery(broker="redis://nowhere/0", broker_transport_options=options)
    assert Lease(app, 10).seconds == 10
    assert app.conf.broker_transport_options == {
        "visibility_timeout": 60,
        "global_keyprefix": "p:",
        "unacked_key": "mine:leased",
        "unacked_index_key": "unacked_index:leased",
        "unacked_mutex_key": "unacked_mutex:leased",
    }
