"""The store on a real server: forks, forgotten scripts, an outage, a server without memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_patterns.store import Script, Store, StoreFault, StoreSettings, StoreUnavailable
from patterns.tasks import shop
from patterns.tasks.conftest import BROKER, LEDGER, TESTS
from servers import RedisServer, celery_worker, redis_server

pytestmark = pytest.mark.every_redis

ECHO = Script("return ARGV[1]", "echo")


@pytest.fixture
def own(redis: RedisServer) -> Iterator[Store]:
    with Celery("own", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=redis.url(7)))
        yield store
        store.close()


def test_a_script_that_the_server_forgot_is_loaded_again(own: Store) -> None:
    assert own.run(ECHO, [], ["a"]) == b"a"
    own.client.script_flush()
    assert own.run(ECHO, [], ["b"]) == b"b"
    assert own.run(ECHO, [], ["c"]) == b"c"


def test_a_forked_child_has_a_connection_of_its_own(own: Store) -> None:
    """Both use the store at once; with one socket for two they would read each other's answers."""
    own.run(ECHO, [], ["before"])
    before = own.client
    child = os.fork()
    if child == 0:
        ok = own.client is not before and all(own.run(ECHO, [], [f"c{n}"]) == f"c{n}".encode() for n in range(300))
        os._exit(0 if ok else 1)
    answers = [own.run(ECHO, [], [f"p{n}"]) for n in range(300)]
    _, status = os.waitpid(child, 0)
    assert answers == [f"p{n}".encode() for n in range(300)]
    assert os.waitstatus_to_exitcode(status) == 0


def test_errors_say_where_and_never_the_password() -> None:
    with Celery("down", set_as_current=False) as app:
        store = Store(app, StoreSettings(url="redis://user:secret@127.0.0.1:1/3"))
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/3") as caught:
            store.run(ECHO, [], ["x"])
        assert "secret" not in str(caught.value)
        store.close()


def test_a_server_without_memory_is_a_clear_error() -> None:
    memory = ("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    with redis_server(*memory) as server, Celery("full", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=server.url()))
        fill = Script("for i = 1, 100 do redis.call('SET', KEYS[1] .. i, ARGV[1], 'PX', 60000) end return 1", "fill")
        store.run(fill, ["k"], ["x" * 100_000])
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            store.run(fill, ["l"], ["x" * 100_000])
        store.close()


@pytest.mark.parametrize(
    "source", ["return redis.call('INCRBY', KEYS[1], 'x')", "return 1 + nil", "return ("], ids=["call", "type", "form"]
)
def test_a_script_that_fails_is_not_a_store_that_is_away(own: Store, source: str) -> None:
    with pytest.raises(StoreFault):
        own.run(Script(source, "wrong"), ["some key"], [])


def test_a_key_of_another_kind_is_not_a_store_that_is_away(own: Store) -> None:
    own.client.rpush("of-another-kind", "x")
    with pytest.raises(StoreFault, match="WRONGTYPE"):
        own.run(Script("return redis.call('HGET', KEYS[1], 'a')", "wrong"), ["of-another-kind"], [])


@pytest.mark.usefixtures("worker")
def test_a_limit_that_is_broken_lets_nothing_pass_unlimited(
    store: Store, ledger: Callable[..., list[dict[str, Any]]], key: str
) -> None:
    """A limit that is open while the store is away is so for that alone."""
    name = store.key("rate", key)
    store.client.rpush(name, "somebody else's")
    try:
        with pytest.raises(StoreFault, match="WRONGTYPE"):
            shop.call_rarely.delay(key).get(timeout=60)
        assert ledger(key, "call") == []
    finally:
        store.client.delete(name)


def test_while_the_store_is_away_tasks_wait_or_run_as_their_policies_say(
    redis: RedisServer, ledger: Callable[..., list[dict[str, Any]]], key: str
) -> None:
    """The rate limit is open: its task runs. The idempotent one waits, and runs once when the store is back."""
    with redis_server() as away:
        env = {"CELERY_PATTERNS_STORE_URL": away.url(), "LEDGER_URL": redis.url(LEDGER)}
        options: dict[str, Any] = {"app": "patterns.tasks.shop:app", "python_path": TESTS, "agent": False}
        broker, backend = redis.url(BROKER), redis.url(1)
        with celery_worker(broker=broker, backend=backend, queues=key, concurrency=2, env=env, **options) as worker:
            away.stop()
            open_one = shop.call_rarely.apply_async([key], queue=key)
            waiting = shop.charge.apply_async([key], queue=key)
            assert open_one.get(timeout=60) == key
            assert ledger(key, "start") == []
            away.start()
            assert waiting.get(timeout=60) == {"order": key, "paid": True}, worker.log()
            assert len(ledger(key, "start")) == 1
