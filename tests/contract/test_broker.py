"""Both brokers keep the port's promises, against real servers, Celery's own producer and stock workers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
from celery import Celery

from celery_operator.adapters.connections import CeleryConnections
from celery_operator.domain.errors import BrokerError
from celery_operator.domain.messages import TaskMessage
from celery_operator.services.ports import Broker, ResultBackend
from celery_patterns.protocol import PUBLISHED_AT_HEADER, TASK_HEADER, TaskIdentity
from contract.patience import until
from contract.publishing import NOW, UID, message
from servers import (
    RabbitKind,
    RabbitServer,
    RedisKind,
    RedisServer,
    Worker,
    celery_worker,
    every_kind,
    every_rabbit,
)

KINDS: list[RedisKind | RabbitKind] = [*every_kind(), *every_rabbit()]
BROKERS = [pytest.param(kind, id=kind.name) for kind in KINDS]
STOCK_BROKER_DB, STOCK_RESULT_DB = 4, 5


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, broker_url: Callable[..., str]) -> str:
    return broker_url(request.param)


@pytest.fixture
def broker(connections: CeleryConnections, url: str) -> Broker:
    return connections.broker(url)


@contextmanager
def celery_app(url: str) -> Iterator[Celery]:
    """Celery as its users have it."""
    app = Celery("peer", broker=url, backend="disabled", set_as_current=False)
    try:
        yield app
    finally:
        app.pool.force_close_all()
        app.close()
        kombu.pools.reset()  # type: ignore[no-untyped-call]


def take(app: Celery, queue: str) -> list[dict[str, Any]]:
    """Take all messages of a queue as kombu delivers them, without what differs between any two."""
    taken: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        while (got := channel.basic_get(queue, no_ack=True)) is not None:
            got = channel.message_to_python(got) if hasattr(channel, "message_to_python") else got
            properties = {k: v for k, v in got.properties.items() if k not in ("delivery_tag", "application_headers")}
            delivery = {k: v for k, v in got.delivery_info.items() if k in ("exchange", "routing_key")}
            properties.pop("delivery_info", None)
            taken.append(
                {
                    "body": json.loads(got.body),
                    "content": (got.content_type, got.content_encoding),
                    "headers": got.headers,
                    "properties": properties,
                    "delivery": delivery,
                }
            )
    return taken


async def test_a_published_message_is_what_send_task_would_have_sent(broker: Broker, url: str, queue: str) -> None:
    ours = message(queue, 3, args=(1, "zwei", [3, {"x": None}]), kwargs={"k": "ü"}, time_limit=60, soft_time_limit=50)
    await broker.publish([ours])
    with celery_app(url) as app:
        (seen,) = take(app, queue)
        app.send_task(
            ours.task,
            ours.args,
            ours.kwargs,
            task_id=ours.identity.task_id,
            queue=queue,
            time_limit=60,
            soft_time_limit=50,
            ignore_result=False,
            headers={TASK_HEADER: ours.identity.to_header(), PUBLISHED_AT_HEADER: NOW.timestamp()},
        )
        (expected,) = take(app, queue)
    # A client that waits for results over AMQP is told apart by reply_to; nobody waits here.
    assert expected["properties"].pop("reply_to")
    assert seen["properties"].pop("reply_to") == ""
    # send_task adds the headers it was given a second time, as a nested value of their own.
    expected["headers"].pop("headers", None)
    assert seen == expected


@pytest.mark.every_redis
async def test_redis_gets_byte_for_byte_what_kombu_would_push(
    redis: RedisServer, connections: CeleryConnections, queue: str
) -> None:
    """The same keys, and the same document but for the random delivery tag."""
    ours = message(queue, 9, args=(1.5, True), kwargs={})
    await connections.broker(redis.url(3)).publish([ours])
    with redis.client(3) as client, celery_app(redis.url(3)) as app:
        keys = _contents(client)
        client.flushdb()
        with app.amqp.producer_pool.acquire(block=True) as producer:
            task = app.amqp.as_task_v2(ours.identity.task_id, ours.task, ours.args, ours.kwargs, ignore_result=False)
            headers = {TASK_HEADER: ours.identity.to_header(), PUBLISHED_AT_HEADER: NOW.timestamp()}
            app.amqp.send_task_message(producer, ours.task, task, queue=queue, headers=headers)
        assert keys == _contents(client)
        assert set(keys) == {queue, f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"}


def _contents(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in client.scan_iter():
        if client.type(key) == b"set":
            found[key.decode()] = client.smembers(key)
            continue
        (raw,) = client.lrange(key, 0, -1)
        tag = json.loads(raw)["properties"]["delivery_tag"].encode()
        assert uuid.UUID(tag.decode()).version == 4
        found[key.decode()] = raw.replace(tag, b"TAG")
    return found


async def test_messages_are_taken_in_the_order_of_publishing(broker: Broker, url: str, queue: str) -> None:
    """Also where one batch ends and the next begins (more than 200, more than 500)."""
    await broker.publish([message(queue, index) for index in range(1203)])
    assert await broker.waiting([queue]) == {queue: 1203}
    with celery_app(url) as app:
        assert [each["headers"][TASK_HEADER]["index"] for each in take(app, queue)] == list(range(1203))


async def test_one_call_feeds_several_queues(broker: Broker, queue: str) -> None:
    other = f"{queue}-other"
    await broker.publish([message([queue, other][index % 3 == 0], index) for index in range(9)])
    assert await broker.waiting([queue, other, f"{queue}-none"]) == {queue: 6, other: 3, f"{queue}-none": 0}


async def test_publishing_nothing_is_nothing(broker: Broker, queue: str) -> None:
    await broker.publish([])
    assert await broker.waiting([queue]) == {queue: 0}


async def test_waiting_without_queues_asks_whether_the_broker_answers(broker: Broker) -> None:
    assert await broker.waiting([]) == {}


@pytest.mark.every_redis
async def test_waiting_counts_every_priority_as_kombu_does(
    redis: RedisServer, connections: CeleryConnections, queue: str
) -> None:
    """Celery's own producer puts messages into all steps; the sum is kombu's own size, step by step."""
    broker = connections.broker(redis.url(0))
    with celery_app(redis.url(0)) as app, app.connection_for_write() as connection:
        for priority in [None, *range(10)]:
            app.send_task("stock.describe", queue=queue, **({} if priority is None else {"priority": priority}))
            assert await broker.waiting([queue]) == {queue: connection.default_channel._size(queue)}
    with redis.client(0) as client:
        lists: Any = client
        assert sorted(lists.llen(key) for key in lists.scan_iter(f"{queue}*")) == [1, 3, 3, 4]


async def test_what_workers_hold_does_not_wait(url: str, broker: Broker, queue: str) -> None:
    await broker.publish([message(queue, index) for index in range(3)])
    with celery_app(url) as app, app.connection_for_read() as connection:
        assert connection.default_channel.basic_get(queue) is not None
        assert await broker.waiting([queue]) == {queue: 2}
        connection.default_channel.queue_purge(queue)


async def test_a_queue_with_its_owners_arguments_is_left_as_it_is(
    rabbitmq: RabbitServer, connections: CeleryConnections, queue: str
) -> None:
    """A worker may have declared a priority queue; declaring it again without would be refused by the broker."""
    with celery_app(rabbitmq.url()) as app, app.connection_for_write() as connection:
        arguments = {"x-max-priority": 10}
        connection.default_channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    broker = connections.broker(rabbitmq.url())
    await broker.publish([message(queue)])
    assert await broker.waiting([queue]) == {queue: 1}


async def test_a_queue_that_is_deleted_meanwhile_is_an_error_and_comes_back(
    rabbitmq: RabbitServer, connections: CeleryConnections, queue: str
) -> None:
    """Never dropped in silence."""
    broker = connections.broker(rabbitmq.url())
    await broker.publish([message(queue)])
    with celery_app(rabbitmq.url()) as app, app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
    with pytest.raises(BrokerError, match=f"queue {queue} is gone"):
        await broker.publish([message(queue)])
    await broker.publish([message(queue)])
    assert await broker.waiting([queue]) == {queue: 1}


@dataclass(frozen=True, slots=True)
class Stock:
    """What a stock worker shares with the operator: a broker, a result backend and a queue."""

    url: str
    broker: Broker
    redis: RedisServer
    backend: ResultBackend
    queue: str

    def worker(self) -> AbstractContextManager[Worker]:
        """Start one."""
        return celery_worker(
            broker=self.url,
            backend=self.redis.url(STOCK_RESULT_DB),
            app="stock_app:app",
            queues=self.queue,
            pool="solo",
            agent=False,
            python_path=Path(__file__).parent,
        )


@pytest.fixture(params=BROKERS)
def stock(
    request: pytest.FixtureRequest,
    broker_url: Callable[..., str],
    redis: RedisServer,
    connections: CeleryConnections,
    queue: str,
) -> Stock:
    url = broker_url(request.param, STOCK_BROKER_DB)
    backend = connections.result_backend(redis.url(STOCK_RESULT_DB))
    return Stock(url, connections.broker(url), redis, backend, queue)


async def test_a_stock_worker_runs_what_was_published(stock: Stock) -> None:
    first = message(stock.queue, 0, args=(1, {"a": [2]}), kwargs={"b": "c"}, time_limit=60, soft_time_limit=50)
    second = TaskMessage(TaskIdentity(UID, 1, f"{stock.queue}-fail", 0, 1), "stock.fail", queue=stock.queue)
    ids = [first.identity.task_id, second.identity.task_id]
    await stock.broker.publish([first, second])

    async def both() -> Any:
        results = await stock.backend.read(ids)
        return results if len(results) == 2 else None

    with stock.worker() as running:
        results = await until(both, what=running.log)
    done, failed = results[ids[0]], results[ids[1]]
    assert (done.state, done.value) == (
        "SUCCESS",
        {
            "args": [1, {"a": [2]}],
            "kwargs": {"b": "c"},
            "id": ids[0],
            "timelimit": [60, 50],
            "queue": stock.queue,
            "header": first.identity.to_header(),
            "published_at": NOW.timestamp(),
            "ignore_result": False,
        },
    )
    assert (failed.state, failed.exception, failed.message) == ("FAILURE", "LookupError", "nothing here")


async def test_revoked_tasks_are_not_run(stock: Stock) -> None:
    """A worker that hears of it before the message reaches it stores REVOKED instead of running."""
    task = message(stock.queue)

    async def heard() -> bool:
        # A broadcast reaches only workers that listen by now.
        await stock.broker.revoke([task.identity.task_id])
        return f"Tasks flagged as revoked: {task.identity.task_id}" in running.log()

    with stock.worker() as running:
        await until(heard, what=running.log)
        await stock.broker.publish([task])
        results = await until(lambda: stock.backend.read([task.identity.task_id]), what=running.log)
    assert results[task.identity.task_id].state == "REVOKED"
