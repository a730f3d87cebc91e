"""Behind sentinels: doctor says what is wrong with them, and patterns go on after a failover."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli import check_sentinel
from celery_patterns.cli.check_sentinel import Answers, Use, _prospects
from celery_patterns.cli.doctor import examined
from celery_patterns.resilience.bulkhead import Bulkhead, BulkheadFull
from celery_patterns.resilience.circuit import CircuitBreaker
from celery_patterns.store import Store, StoreNotConfigured, StoreSettings, StoreUnavailable
from celery_patterns.tasks import install
from servers import LOOPBACK, RedisKind, RedisServer, eventually, free_port, redis_server
from servers_sentinel import SentinelServer, Watched, sentinel_server

NEVER_MS = 600_000


@dataclass
class Group:
    """A master with a replica, and who watches them."""

    master: RedisServer
    replica: RedisServer
    sentinel: SentinelServer
    stranger: SentinelServer
    """It watches other servers under the same name, one alone and one that is gone."""


@pytest.fixture(scope="module")
def group(redis_kind: RedisKind) -> Iterator[Group]:
    with ExitStack() as stack:
        alone = stack.enter_context(redis_server(kind=redis_kind))
        master = stack.enter_context(redis_server("--repl-diskless-sync-delay", "0", kind=redis_kind))
        replica = stack.enter_context(redis_server("--replicaof", LOOPBACK, str(master.port), kind=redis_kind))
        with replica.client() as opened:
            client: Any = opened
            eventually(lambda: client.info("replication")["master_link_status"] == "up")
        sentinel = stack.enter_context(sentinel_server({"shop": Watched(master.port)}, kind=redis_kind))
        other = {
            "shop": Watched(alone.port, quorum=2, down_ms=NEVER_MS),
            "gone": Watched(free_port(), down_ms=NEVER_MS),
        }
        stranger = stack.enter_context(sentinel_server(other, kind=redis_kind))
        with sentinel.client() as asked:
            eventually(lambda: int(asked.sentinel_master("shop")["num-slaves"]) == 1)
        yield Group(master, replica, sentinel, stranger)


def said(*urls: str, **options: Any) -> list[tuple[str, str]]:
    """Return level and message about a broker behind these sentinels."""
    with Celery("shop", set_as_current=False, broker=";".join(urls)) as app:
        app.conf.broker_transport_options = options
        return [(str(each.level), each.message) for each in check_sentinel.sentinel(app)]


def advice(*urls: str, **options: Any) -> str:
    with Celery("shop", set_as_current=False, broker=";".join(urls)) as app:
        app.conf.broker_transport_options = options
        return next(check_sentinel.sentinel(app)).advice


@pytest.mark.usefixtures("quickly")
def test_doctor_is_content_with_broker_results_and_store_of_one_group(group: Group) -> None:
    named = f"1 of 1 sentinels name {LOOPBACK}:{group.master.port} as the master shop"
    role = f"{LOOPBACK}:{group.master.port} says that it is a master"
    urls: dict[str, Any] = {"broker": group.sentinel.url(0), "backend": group.sentinel.url(1)}
    with install(
        Celery("shop", set_as_current=False, **urls), store=f"{group.sentinel.url(2)}?master_name=shop"
    ) as app:
        app.conf.broker_transport_options = app.conf.result_backend_transport_options = {"master_name": "shop"}
        found = [(str(each.level), each.check, each.message) for each in examined(app)]
    assert [each for each in found if each[0] == "error"] == []
    expected = [("ok", "sentinel", whose + text) for whose in ("", "results: ", "store: ") for text in (named, role)]
    assert [each for each in found if each[1] == "sentinel"] == expected
    assert ("ok", "store", "the patterns' store sentinels' master shop/2 answers") in found
    # One server: its settings are told once.
    assert [each[2] for each in found if each[1] == "eviction"] == ["maxmemory-policy is noeviction"]


def test_a_master_that_is_not_named_is_looked_up(group: Group) -> None:
    assert said(group.sentinel.url()) == [("error", "no master_name is set; the sentinels know shop")]
    assert advice(group.sentinel.url()) == "broker_transport_options = {'master_name': 'shop'}"


def test_a_name_that_no_sentinel_knows_is_told_with_those_they_know(group: Group) -> None:
    message = "no sentinel knows the master shpo; the sentinels know gone, shop"
    assert said(group.stranger.url(), master_name="shpo") == [("error", message)]


def test_sentinels_that_are_away_are_named(group: Group) -> None:
    nobody = f"sentinel://{LOOPBACK}:1"
    ((level, message),) = said(nobody, master_name="shop")
    assert (level, message.startswith(f"no sentinel answers: {LOOPBACK}:1: ")) == ("error", True)
    (level, message), role = said(nobody, group.sentinel.url(), master_name="shop")
    begin = f"1 of 2 sentinels name {LOOPBACK}:{group.master.port} as the master shop; {LOOPBACK}:1: "
    assert (level, message.startswith(begin)) == ("warning", True)
    assert role[0] == "ok"


def test_sentinels_that_do_not_agree_are_an_error_with_who_says_what(group: Group) -> None:
    ((level, message),) = said(group.sentinel.url(), group.stranger.url(), master_name="shop")
    assert level == "error"
    assert message.startswith("the sentinels do not agree who is the master shop: ")
    assert f"{LOOPBACK}:{group.master.port} (say {LOOPBACK}:{group.sentinel.port})" in message


def test_a_master_that_cannot_fail_over_is_told(group: Group) -> None:
    levels, messages = zip(*said(group.stranger.url(), master_name="shop"), strict=True)
    assert levels == ("ok", "warning", "warning", "ok")
    assert messages[1].startswith("the sentinels cannot fail shop over: NOQUORUM")
    assert messages[2] == "the master shop has no replica: a failover has nowhere to go"


class Knowing:
    """A sentinel's answers about a group that needs seconds to find itself."""

    def execute_command(self, *_: str) -> bool:
        return True

    def sentinel_master(self, _: str) -> dict[str, str]:
        return {"num-slaves": "1", "num-other-sentinels": "2"}


@pytest.mark.parametrize("named", [1, 2])
def test_that_one_of_several_sentinels_is_named_is_told(named: int) -> None:
    use = Use("", ";".join(["sentinel://h:1"] * named), "shop", "broker_transport_options", {}, {})
    messages = [each.message for each in _prospects(use, Answers(asked=Knowing()))]
    assert messages == ["one of 3 sentinels is named: while it is away nobody can connect"][: 2 - named]


def test_a_named_server_that_is_gone_is_an_error(group: Group) -> None:
    *_, (level, message) = said(group.stranger.url(), master_name="gone")
    assert (level, "which does not answer from here: " in message) == ("error", True)


def test_sentinels_with_a_password_say_which_option_is_missing_and_a_replica_is_no_master(
    group: Group, redis_kind: RedisKind
) -> None:
    """The name is another: sentinels that watch one name learn of each other, and elect who fails over."""
    demoted = {"demoted": Watched(group.replica.port, down_ms=NEVER_MS)}
    with sentinel_server(demoted, "requirepass pw", kind=redis_kind) as locked:
        ((_, message),) = said(locked.url(), master_name="demoted")
        assert "broker_transport_options['sentinel_kwargs'] = {'password': ...}" in message
        first, *_, last = said(locked.url(), master_name="demoted", sentinel_kwargs={"password": "pw"})
    assert first[0] == "ok"
    named = f"{LOOPBACK}:{group.replica.port} as master, which says that it is a slave"
    assert last == ("error", f"the sentinels name {named}: writes are refused")


def test_a_store_behind_sentinels_without_a_name_says_where_to_put_it(group: Group) -> None:
    with Celery("shop", set_as_current=False) as app, pytest.raises(StoreNotConfigured, match=r"\?master_name=NAME"):
        assert Store(app, StoreSettings(url=group.sentinel.url())).client


@pytest.mark.parametrize("by", ["broker", "backend"])
def test_without_a_store_of_its_own_an_application_uses_that_of_its_sentinels(group: Group, by: str) -> None:
    urls: dict[str, Any] = {by: group.sentinel.url(3)}
    with Celery("shop", set_as_current=False, **urls) as app:
        app.conf.broker_transport_options = app.conf.result_backend_transport_options = {"master_name": "shop"}
        store = Store(app, StoreSettings())
        CircuitBreaker(store, by).force_open(60, "noon")
        assert store.address == "sentinels' master shop/3"
        store.close()
    with group.master.client(3) as client:
        assert client.exists(store.key("circuit", by)) == 1


def test_a_sentinel_that_is_away_is_asked_once_also_by_the_result_backends_client(group: Group) -> None:
    urls: dict[str, Any] = {"backend": f"sentinel://{LOOPBACK}:1/3;{group.sentinel.url(3)}"}
    with Celery("shop", set_as_current=False, **urls) as app:
        app.conf.result_backend_transport_options = {"master_name": "shop"}
        store = Store(app, StoreSettings())
        assert store.client.time()
        asked = store.client.connection_pool.sentinel_manager.sentinels
        options = [each.connection_pool.connection_kwargs for each in asked]
        store.close()
    assert [(each["retry"].get_retries(), each["socket_timeout"]) for each in options] == [(0, 1.0)] * 2


def test_patterns_go_on_after_a_failover_with_what_they_knew(group: Group) -> None:
    """The last test of these servers: the master is killed."""
    with Celery("shop", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=f"{group.sentinel.url(3)}?master_name=shop"))
        circuit, printer = CircuitBreaker(store, "bank"), Bulkhead(store, "printer", 1)
        circuit.force_open(600, "noon")
        place = printer.enter()
        assert store.client.wait(1, 5_000) == 1
        group.master.stop()
        with pytest.raises(StoreUnavailable, match="sentinels' master shop/3"):
            circuit.state()
        eventually(lambda: circuit.state().reason == "noon", within=20, what=group.sentinel.log)
        assert group.sentinel.master("shop") == group.replica.port
        with pytest.raises(BulkheadFull):
            printer.enter()
        printer.leave(place)
        with printer:
            circuit.reset()
        assert circuit.state().state == "closed"
        store.close()


def test_a_store_is_away_while_there_is_no_master() -> None:
    with Celery("shop", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=f"sentinel://me:secret@{LOOPBACK}:1/3?master_name=shop"))
        with pytest.raises(StoreUnavailable, match="sentinels' master shop/3") as caught:
            CircuitBreaker(store, "bank").state()
        assert "secret" not in str(caught.value)
        store.close()
