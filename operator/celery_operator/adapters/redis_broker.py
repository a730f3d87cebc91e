"""A Redis broker, asked and fed without kombu on the hot path.

kombu's Redis transport keeps a queue as one list for each priority step and a message as one JSON document in it; both
are reproduced here over one pipelined connection, at a tenth of the cost of kombu's producer. Contract tests compare
keys and documents with what kombu writes, and let a stock worker run them.
"""

from __future__ import annotations

import base64
import functools
import uuid
from collections.abc import Mapping, Sequence

from celery_operator.adapters import celery_app
from celery_operator.adapters.blocking import BlockingCalls
from celery_operator.adapters.messages import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    DEFAULT_PRIORITY,
    CeleryMessage,
    MessageBuilder,
    encode_json,
)
from celery_operator.adapters.redis_client import bounded, open_redis
from celery_operator.domain.errors import BrokerError
from celery_operator.domain.messages import TaskMessage
from celery_operator.services.ports import Clock
from celery_patterns.protocol import PRIORITY_SEPARATOR, priority_keys

BATCH_MESSAGES = 200
"""Messages in one exchange: some 7 ms of building, which is as long as the event loop may be held."""

BINDING_KEY = "_kombu.binding."
PERMANENT_BINDING_KEY = "_kombu.binding_permanent."
"""Sets in which kombu 5.7 notes which queues an exchange feeds; the second since 5.7."""


class RedisBroker:
    """The port ``Broker`` on Redis (``redis://`` and ``rediss://``).

    Args:
        url: As Celery reads it.
        clock: For the header that tells when a message was published.
        key_prefix: The transport option ``global_keyprefix`` of the workers.

    Raises RedisAddressError if the URL cannot be read.
    """

    def __init__(self, url: str, *, clock: Clock, key_prefix: str = "") -> None:
        self._url = url
        self._clock = clock
        self._key_prefix = key_prefix
        self._client = open_redis(url)
        self._app = celery_app.private_app(url)
        self._builder = MessageBuilder(self._app)
        self._control = BlockingCalls(url, "control")

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        """See the port. Without queues it only asks whether the broker answers."""
        async with bounded(self._url, "count what waits", BrokerError):
            if not queues:
                await self._client.execute_command("PING")  # type: ignore[no-untyped-call]
                return {}
            pipe = self._client.pipeline(transaction=False)
            keys = {queue: priority_keys(queue, self._key_prefix) for queue in queues}
            for names in keys.values():
                for name in names:
                    pipe.llen(name)
            lengths = iter(await pipe.execute())
        return {queue: sum(int(next(lengths)) for _ in names) for queue, names in keys.items()}

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        """See the port."""
        declared: set[str] = set()
        for start in range(0, len(messages), BATCH_MESSAGES):
            batch = messages[start : start + BATCH_MESSAGES]
            published_at = self._clock.now().timestamp()
            lists: dict[str, list[str]] = {}
            for message in batch:
                built = self._builder.build(message, published_at)
                lists.setdefault(built.queue, []).append(envelope(built))
            pipe = self._client.pipeline(transaction=False)
            for queue, documents in lists.items():
                if queue not in declared:
                    binding = PRIORITY_SEPARATOR.join((queue, "", queue))
                    pipe.sadd(f"{self._key_prefix}{BINDING_KEY}{queue}", binding)
                    pipe.sadd(f"{self._key_prefix}{PERMANENT_BINDING_KEY}{queue}", binding)
                pipe.lpush(f"{self._key_prefix}{queue}", *documents)
            async with bounded(self._url, "publish", BrokerError):
                await pipe.execute()
            declared |= lists.keys()

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """See the port."""
        if task_ids:
            call = functools.partial(celery_app.revoke, self._app, self._url, task_ids)
            await self._control.run("revoke tasks", call)

    async def close(self) -> None:
        """See the port."""
        await self._control.close()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


def envelope(message: CeleryMessage) -> str:
    """Return the document that kombu's Redis transport would push for this message (default exchange)."""
    properties = {
        **message.properties,
        "delivery_info": {"exchange": "", "routing_key": message.queue},
        "priority": DEFAULT_PRIORITY,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    return encode_json(
        {
            "body": base64.b64encode(message.body.encode()).decode(),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": message.headers,
            "properties": properties,
        }
    )
