"""Doctor tells another application's workers on the same broker from this application's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_patterns.cli.check_workers import APART, Consumer, judged, workers
from patterns.resilience.stage import Stage
from servers import RabbitServer, RedisServer, Worker, celery_worker

BOTH = {"billing", "shop"}


@pytest.fixture(scope="module")
def neighbour(redis: RedisServer) -> Iterator[Worker]:
    """A worker of the application ``patient``, on two queues."""
    with celery_worker(
        broker=redis.url(0),
        backend=redis.url(1),
        app="patient:app",
        python_path=Stage.APPS,
        queues="billing,shop",
        name="p@neighbour",
    ) as worker:
        yield worker


@pytest.fixture(autouse=True)
def no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has imported other applications shares their tasks with each that it makes."""
    monkeypatch.setattr("celery._state._on_app_finalizers", set())


def application(broker: str, *tasks: str, queue: str, prefix: str = "") -> Celery:
    """Return an application with tasks of these names and one queue."""
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(task_default_queue=queue, broker_transport_options={"global_keyprefix": prefix} if prefix else {})

    def nothing() -> None:
        pass

    for name in tasks:
        app.task(name=name, shared=False)(nothing)
    return app


def said(app: Celery) -> list[tuple[str, str, str]]:
    with app:
        return [(each.level, each.message, each.advice) for each in workers(app)]


ANSWERS = ("ok", "1 answer: p@neighbour", "")


def test_a_neighbour_on_queues_of_its_own_is_named_with_them(redis: RedisServer, neighbour: Worker) -> None:
    assert neighbour.ready()
    message = "p@neighbour has none of this application's tasks, and reads other queues here: billing, shop"
    assert said(application(redis.url(0), "buy", queue="orders")) == [ANSWERS, ("warning", message, APART)]


def test_a_neighbour_that_takes_this_applications_messages_is_named_first(
    redis: RedisServer, neighbour: Worker
) -> None:
    assert neighbour.ready()
    message = "p@neighbour takes messages from shop and has none of this application's tasks: it refuses what it takes"
    advice = f"queues of its own for each application; {APART}"
    assert said(application(redis.url(0), "buy", queue="shop")) == [ANSWERS, ("warning", message, advice)]


def test_workers_of_this_application_are_no_neighbours_whatever_they_read(
    redis: RedisServer, neighbour: Worker
) -> None:
    """Queues can be named where a task is sent, and be read by ``-Q``."""
    assert neighbour.ready()
    assert said(application(redis.url(0), "plain_ok", queue="orders")) == [ANSWERS]


def test_of_a_broker_without_an_application_no_worker_is_a_stranger(redis: RedisServer, neighbour: Worker) -> None:
    assert neighbour.ready()
    assert said(application(redis.url(0), queue="celery")) == [ANSWERS]


@pytest.mark.parametrize(("db", "prefix"), [(7, ""), (0, "shop:")], ids=["database", "prefix"])
def test_what_is_advised_parts_them(redis: RedisServer, neighbour: Worker, db: int, prefix: str) -> None:
    assert neighbour.ready()
    found = said(application(redis.url(db), "buy", queue="shop", prefix=prefix))
    assert found == [("unknown", "none answers within 1.5 s", "are there any? remote control may be off")]


def test_two_workers_of_one_name_are_both_seen(redis: RedisServer, neighbour: Worker) -> None:
    """Each application's workers are ``celery@host`` if nobody names them."""
    assert neighbour.ready()
    own: dict[str, Any] = {"broker": redis.url(0), "backend": redis.url(1), "name": "p@neighbour"}
    with celery_worker(**own, queues="shop"):
        found = said(application(redis.url(0), "examples.add", queue="shop"))
    assert [(level, message) for level, message, _ in found] == [
        ("ok", "2 answer: p@neighbour, p@neighbour"),
        (
            "warning",
            "p@neighbour takes messages from shop and has none of this application's tasks: it refuses what it takes",
        ),
    ]


def test_on_rabbitmq_other_queues_of_a_virtual_host_are_no_harm(rabbit: RabbitServer, redis: RedisServer) -> None:
    """What takes this application's messages is."""
    with celery_worker(
        broker=rabbit.url(), backend=redis.url(1), app="patient:app", python_path=Stage.APPS, queues="q-n", name="p@n"
    ):
        assert [level for level, _, _ in said(application(rabbit.url(), "buy", queue="q-other"))] == ["ok"]
        assert [level for level, _, _ in said(application(rabbit.url(), "buy", queue="q-n"))] == ["ok", "warning"]


def test_a_worker_that_does_not_say_what_it_knows_is_not_judged() -> None:
    silent = Consumer("w@1", frozenset(BOTH), None)
    assert list(judged([silent], {"shop"}, {"buy"}, on_redis=True)) == []
    queueless = Consumer("w@1", None, frozenset({"pay"}))
    (found,) = judged([queueless], {"shop"}, {"buy"}, on_redis=True)
    assert found.message == "w@1 has none of this application's tasks, and reads other queues here: unknown ones"
