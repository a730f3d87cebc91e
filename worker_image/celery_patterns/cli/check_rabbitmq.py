"""What doctor looks at in RabbitMQ: the server, and each queue's existence and arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_patterns import protocol
from celery_patterns.cli.findings import Finding, error, ok, warning

SOCKET_SECONDS = 5.0


def broker(app: Any) -> Iterator[Finding]:
    """The broker, if it is a RabbitMQ."""
    connection = app.connection_for_write(connect_timeout=SOCKET_SECONDS)
    if connection.transport.driver_type != "amqp":
        connection.release()
        return
    with connection:
        where = protocol.mask_url(connection.as_uri())
        try:
            connection.connect()
        except Exception as problem:  # noqa: BLE001 - whatever kombu makes of it
            yield error(
                "broker",
                f"{where} does not answer: {type(problem).__name__}: {protocol.mask_url(str(problem))}",
                "its address, virtual host, user and password",
            )
            return
        yield ok("broker", f"{where} answers")
        yield from _server(app, connection)
        for queue in app.amqp.queues.values():
            yield from _queue(app, connection, queue)


def _server(app: Any, connection: Any) -> Iterator[Finding]:
    properties = connection.connection.server_properties
    version = str(properties.get("version", "?"))
    if version[:1] in ("3", "2"):
        yield warning(
            "version",
            f"RabbitMQ {version}",
            "RabbitMQ 4: 3.x gets no fixes, and quorum queues there do not delay retries",
        )
    else:
        yield ok("version", f"RabbitMQ {version}")
    if (app.conf.broker_transport_options or {}).get("confirm_publish"):
        yield ok("confirms", "confirm_publish is on")
    else:
        yield warning(
            "confirms",
            "publishing does not wait for the broker: a message may be lost with the connection, unnoticed",
            "broker_transport_options = {'confirm_publish': True}",
        )
    if app.conf.broker_heartbeat and float(app.conf.broker_heartbeat) > 60:
        yield warning(
            "heartbeat",
            f"broker_heartbeat is {app.conf.broker_heartbeat} s: a vanished node is noticed after twice that",
            "broker_heartbeat = 20",
        )


def _queue(app: Any, connection: Any, queue: Any) -> Iterator[Finding]:
    check = f"queue {queue.name}"
    with connection.channel() as channel:
        try:
            seen = channel.queue_declare(queue.name, passive=True)
        except connection.channel_errors:
            yield warning(check, "does not exist yet", "a worker that consumes it declares it")
            return
    with connection.channel() as channel:
        try:
            queue.bind(channel).queue_declare()
        except connection.channel_errors as problem:
            yield error(
                check,
                f"exists with other arguments than the application's: {problem}",
                "arguments cannot be changed: use a policy of RabbitMQ, or delete the queue when it is empty",
            )
            return
    arguments = queue.queue_arguments or {}
    kind = arguments.get("x-queue-type", "classic")
    yield ok(check, f"{kind}; {seen.message_count} wait, {seen.consumer_count} consume")
    if kind == "classic":
        yield warning(
            check,
            "a classic queue is on one node: it and its messages are gone while that node is",
            "x-queue-type: quorum (task_default_queue_type = 'quorum')",
        )
    if kind == "quorum" and "x-dead-letter-exchange" not in arguments:
        yield warning(
            check,
            "a quorum queue without x-dead-letter-exchange: RabbitMQ 4 throws away what comes over 20 times",
            f"x-dead-letter-exchange '' and x-dead-letter-routing-key '{queue.name}.dead', which dlq reads",
        )
    if app.conf.task_acks_on_failure is False and "x-dead-letter-exchange" not in arguments:
        yield error(
            check,
            "task_acks_on_failure is False, and the queue has no dead-letter exchange: failed messages are thrown away",
            f"x-dead-letter-exchange '' and x-dead-letter-routing-key '{queue.name}.dead'",
        )
