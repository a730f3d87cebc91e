"""What doctor looks at in the application: versions, settings, serializers and their signatures, results."""

from __future__ import annotations

import importlib.metadata
import platform
import uuid
from collections.abc import Iterator
from typing import Any

import redis
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads

from celery_patterns import protocol
from celery_patterns.cli import check_memory, check_tls, reaching
from celery_patterns.cli.check_workers import brief
from celery_patterns.cli.findings import Finding, error, ok, warning

DEFAULT_VISIBILITY_SECONDS = 3600
"""kombu's own, on Redis."""


def versions(_: Any) -> Iterator[Finding]:
    """Celery, kombu and the driver, as installed here."""
    found = {name: importlib.metadata.version(name) for name in ("celery", "kombu", "redis")}
    text = ", ".join(f"{name} {version}" for name, version in found.items()) + f", Python {platform.python_version()}"
    major, minor = (int(part) for part in found["celery"].split(".")[:2])
    if (major, minor) < (5, 7):
        yield warning(
            "versions",
            text,
            "use Celery 5.7: before it, crashed tasks are not retried under a limit, and messages of nested canvases "
            "grow without bound",
        )
    else:
        yield ok("versions", text)


def settings(app: Any) -> Iterator[Finding]:
    """Settings that lose tasks, run them twice or for ever."""
    conf = app.conf
    pickles = [
        str(kind) for kind in conf.accept_content or () if str(kind) in ("pickle", "application/x-python-serialize")
    ]
    if pickles:
        yield error(
            "pickle",
            "accept_content contains pickle: who can write to the broker can run code in workers",
            "accept_content = ['json']",
        )
    tasks = [task for name, task in app.tasks.items() if not name.startswith("celery.")]
    rejecting = sorted(task.name for task in tasks if task.reject_on_worker_lost)
    if rejecting:
        yield warning(
            "worker-lost",
            f"task_reject_on_worker_lost: {brief(rejecting)} comes back without bound when it kills its process",
            "task_retry_on_worker_lost = True, which max_retries bounds, or WorkerLost('retry')",
        )
    early = sorted(task.name for task in tasks if not task.acks_late)
    if early:
        yield warning(
            "acks-late",
            f"acknowledged when they begin, and lost when their worker dies: {brief(early)}",
            "task_acks_late = True, where running twice does no harm",
        )
    endless = sorted(task.name for task in tasks if not (task.time_limit or conf.task_time_limit))
    if endless:
        yield warning("time-limit", f"no time limit: {brief(endless)}", "task_time_limit and task_soft_time_limit")
    if conf.task_acks_on_failure is False and app.connection_for_write().transport.driver_type == "redis":
        yield warning(
            "acks-failure",
            "task_acks_on_failure = False rejects failed messages, which Redis deletes",
            "leave it True on Redis; the policy DeadLetter keeps failed messages",
        )


def serializers(app: Any) -> Iterator[Finding]:
    """Whether what is sent would be accepted, signatures included."""
    conf = app.conf
    name = conf.task_serializer
    accepted = conf.accept_content
    try:
        kind, encoding, body = dumps([["doctor"], {}, {}], serializer=name)  # type: ignore[no-untyped-call]
        loads(body, kind, encoding, accept=_types(accepted))  # type: ignore[no-untyped-call]
    except ContentDisallowed:
        yield error(
            "messages",
            f"task_serializer is {name!r}, but accept_content is {accepted}: workers refuse what is sent",
            f"accept_content = [{name!r}]",
        )
    except Exception as problem:  # noqa: BLE001 - whatever a serializer raises
        yield error(
            "messages",
            f"a message cannot be written and read with {name!r}: {type(problem).__name__}: {problem}",
            "for 'auth': security_key, security_certificate, security_cert_store (RSA), and app.setup_security()"
            if name == "auth"
            else "install what the serializer needs",
        )
    else:
        yield ok("messages", f"a message written with {name!r} is accepted" + (", signed" if name == "auth" else ""))
    if name == "auth" and conf.result_serializer != "auth":
        yield warning(
            "results",
            f"messages are signed, results are not (result_serializer is {conf.result_serializer!r})",
            "result_serializer = 'auth' and result_accept_content = ['auth']",
        )


def backend_of(app: Any) -> Any:
    """Return the application's result backend; None if its URL or options are refused."""
    return None if _refusal(app) is not None else app.backend


def _refusal(app: Any) -> Exception | None:
    try:
        app.backend  # noqa: B018 - made when it is first asked for
    except Exception as problem:  # noqa: BLE001 - whatever a backend raises
        return problem
    return None


def results(app: Any) -> Iterator[Finding]:
    """Whether a result can be stored and read again."""
    from celery.backends.base import DisabledBackend  # noqa: PLC0415

    backend = backend_of(app)
    if backend is None:
        why = " ".join(protocol.mask_url(str(_refusal(app))).split())
        yield error("results", f"result_backend: {why}", "its URL and options")
        return
    if isinstance(backend, DisabledBackend):
        yield warning("results", "there is no result backend", "result_backend, where anyone waits for results")
        return
    task_id = f"celery-patterns-doctor-{uuid.uuid4()}"
    where = protocol.mask_url(str(backend.as_uri()))
    try:
        backend.decode(backend.encode({"status": "SUCCESS", "result": "doctor"}))
    except ContentDisallowed:
        yield error(
            "results",
            f"result_serializer is {app.conf.result_serializer!r}, but results of that kind are not accepted: "
            "every result raises ContentDisallowed where it is read",
            f"result_accept_content = [{app.conf.result_serializer!r}]",
        )
        return
    try:
        if isinstance(getattr(backend, "client", None), redis.Redis):
            # The backend itself would try for a long time before it says that there is no answer.
            reaching.results(backend).get(backend.get_key_for_task(task_id))
        backend.store_result(task_id, "doctor", "SUCCESS")
        seen = backend.get_task_meta(task_id, cache=False)
        backend.forget(task_id)
    except redis.exceptions.OutOfMemoryError:
        yield check_memory.used_up(backend.client)
        return
    except redis.exceptions.NoPermissionError as problem:
        yield error("results", f"{where} refuses: {problem}", "the rights that acl names")
        return
    except Exception as problem:  # noqa: BLE001 - whatever a backend raises
        text = protocol.mask_url(str(problem))
        advice = check_tls.advice(text, "see its server")
        yield error("results", f"{where}: {type(problem).__name__}: {text}", advice)
        return
    if (seen.get("status"), seen.get("result")) != ("SUCCESS", "doctor"):
        yield error("results", f"{where}: stored 'doctor', read {seen.get('result')!r}", "see result_serializer")
    else:
        yield ok("results", f"a result is stored and read again: {where}")
    if not app.conf.result_expires:
        yield warning("results", "results never expire", "result_expires = 86400")


def visibility(app: Any) -> Iterator[Finding]:
    """On Redis: whether a task can outlast the time after which its message is given to another worker."""
    conf = app.conf
    options = conf.broker_transport_options or {}
    seconds = float(options.get("visibility_timeout") or DEFAULT_VISIBILITY_SECONDS)
    tasks = [task for name, task in app.tasks.items() if not name.startswith("celery.")]
    limits = {task.name: task.time_limit or conf.task_time_limit for task in tasks if task.acks_late}
    longer = sorted(name for name, limit in limits.items() if limit is None or float(limit) >= seconds)
    guarded = (
        "with the agent in every worker (-I celery_patterns.agent.autoload) leases are renewed and this is no harm"
    )
    if longer:
        yield warning(
            "visibility",
            f"visibility_timeout is {seconds:g} s, and these may run longer and then run twice: {brief(longer)}",
            f"a time limit below it, or a longer visibility_timeout; {guarded}",
        )
    else:
        yield ok("visibility", f"visibility_timeout is {seconds:g} s, above every time limit")
    if seconds >= DEFAULT_VISIBILITY_SECONDS:
        yield warning(
            "recovery",
            f"tasks of a killed worker start again after {seconds:g} s",
            f"a shorter visibility_timeout, such as 60, unacked_restore_interval 5 and unacked_restore_throttle 1; "
            f"{guarded}",
        )
    yield (
        warning(
            "eta",
            f"a countdown or eta above {seconds:g} s is delivered again before it is due",
            f"keep them shorter; {guarded}",
        )
        if seconds < 600
        else ok("eta", f"countdowns up to {seconds:g} s are delivered once")
    )
    other = (conf.result_backend_transport_options or {}).get("visibility_timeout")
    if other is not None and float(other) != seconds:
        yield warning(
            "visibility",
            f"result_backend_transport_options has another visibility_timeout: {other}",
            "one value in both: the shortest of all who use the database wins",
        )


def _types(accepted: Any) -> set[str]:
    from kombu.serialization import prepare_accept_content  # noqa: PLC0415

    return set(prepare_accept_content(accepted) or ())  # type: ignore[no-untyped-call]
