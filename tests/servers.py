"""Real servers for tests: a private Redis, RabbitMQ or Celery worker on free loopback ports, gone when the test is.

Each is a context manager: it yields when the process answers, and it never outlives the ``with`` block. Nothing here
sleeps to synchronise: every wait polls for a fact, with a deadline.

    with redis_server() as redis, celery_worker(broker=redis.url(0), backend=redis.url(1)) as worker:
        worker.state().ready
"""

from servers_kinds import RabbitKind, RedisKind, every_kind, every_rabbit
from servers_process import LOOPBACK, eventually, free_port, running
from servers_rabbitmq import RabbitServer, rabbitmq_server
from servers_redis import RedisServer, redis_server
from servers_worker import EXAMPLES_APP, TOKEN, Worker, celery_worker

__all__ = [
    "EXAMPLES_APP",
    "LOOPBACK",
    "TOKEN",
    "RabbitKind",
    "RabbitServer",
    "RedisKind",
    "RedisServer",
    "Worker",
    "celery_worker",
    "eventually",
    "every_kind",
    "every_rabbit",
    "free_port",
    "rabbitmq_server",
    "redis_server",
    "running",
]
