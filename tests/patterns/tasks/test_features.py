"""What an application turns on in one place holds in real workers; wrong values end a worker with a sentence."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery

from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks import Features, PolicyError, install
from celery_patterns.tasks.features import check_names
from patterns.tasks.conftest import TESTS
from servers import RedisServer, Worker, celery_worker, eventually

BROKER, RESULTS, STORE = 10, 11, 12

Start = Callable[..., AbstractContextManager[Worker]]


@pytest.fixture(scope="module")
def start(redis: RedisServer) -> Start:
    """Start a worker of the featured application, with features by argument and settings."""

    def begin(
        argument: dict[str, Any] | None = None,
        conf: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> AbstractContextManager[Worker]:
        environment = {
            "FEATURED_ARGUMENT": json.dumps(argument or {}),
            "FEATURED_CONF": json.dumps(conf or {}),
            "FEATURED_STORE": redis.url(STORE),
            **(env or {}),
        }
        urls: dict[str, Any] = {"broker": redis.url(BROKER), "backend": redis.url(RESULTS)}
        defaults = {**urls, "app": "patterns.tasks.featured:app", "python_path": TESTS, "agent": False}
        return celery_worker(**{**defaults, **options}, env=environment)

    return begin


@pytest.fixture
def sender(redis: RedisServer) -> Iterator[Celery]:
    """A client of the same broker."""
    with Celery("sender", set_as_current=False, broker=redis.url(BROKER), backend=redis.url(RESULTS)) as app:
        yield app


def said(worker: Worker) -> list[dict[str, Any]]:
    """Return the structured lines of the tasks."""
    lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    return [line for line in lines if str(line["event"]).startswith("said ")]


SAY = [
    pytest.param(({"logs": "json"}, {}, {}), id="argument"),
    pytest.param(({}, {"patterns_logs": "json"}, {}), id="setting"),
    pytest.param(({}, {}, {"CELERY_PATTERNS_LOGS": "json"}), id="environment"),
    pytest.param(({"logs": "console"}, {"patterns_logs": "off"}, {"CELERY_PATTERNS_LOGS": "json"}), id="all-three"),
]


@pytest.mark.parametrize("said_in", SAY)
def test_logs_are_structured_when_asked_for_in_any_place(
    start: Start, sender: Celery, key: str, said_in: tuple[dict[str, Any], ...]
) -> None:
    with start(*said_in, queues=key) as worker:
        sent = sender.send_task("featured.speak", ["hello"], queue=key)
        assert sent.get(timeout=60) == "hello"
        (line,) = eventually(lambda: said(worker), what=worker.log)
    assert {name: line[name] for name in ("event", "task", "task_id")} == {
        "event": "said hello",
        "task": "featured.speak",
        "task_id": sent.id,
    }


def test_logs_stay_celerys_own_when_nothing_is_said_or_the_environment_says_so(
    start: Start, sender: Celery, key: str
) -> None:
    with start({"logs": "json"}, env={"CELERY_PATTERNS_LOGS": "off"}, queues=key) as worker:
        assert sender.send_task("featured.speak", ["hello"], queue=key).get(timeout=60) == "hello"
        eventually(lambda: re.search(r"^\[.*INFO/ForkPoolWorker-1\] said hello$", worker.log(), re.MULTILINE))


def test_processes_that_are_spawned_have_the_features_of_their_worker(start: Start, sender: Celery, key: str) -> None:
    with start({"logs": "json"}, {"worker_pool_start_method": "spawn"}, queues=key) as worker:
        sent = sender.send_task("featured.speak", ["hello"], queue=key)
        assert sent.get(timeout=40) == "hello"
        (line,) = eventually(lambda: said(worker), what=worker.log)
        assert line["task_id"] == sent.id


class Collector(BaseHTTPRequestHandler):
    """Takes what is posted, for OpenTelemetry and for Sentry."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.posted.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # type: ignore[explicit-override] # noqa: A002 - the standard library's name
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """A port, and what was posted to it."""
    posted: list[tuple[str, bytes]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.posted = posted  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], posted
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_traces_and_reports_of_errors_leave_the_worker(
    start: Start, sender: Celery, key: str, pool: str, collector: tuple[int, list[tuple[str, bytes]]]
) -> None:
    port, posted = collector
    features = {"tracing": "otlp-http", "sentry": f"http://key@127.0.0.1:{port}/1"}
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def posts(path: str, *texts: str) -> bool:
        return any(each == path and all(text.encode() in body for text in texts) for each, body in posted)

    with start(features, env=env, queues=key, pool=pool) as worker:
        sent = sender.send_task("featured.fail", ["trouble"], queue=key)
        eventually(lambda: posts("/v1/traces", "featured.fail", sent.id), within=30, what=worker.log)
        eventually(lambda: posts("/api/1/envelope/", "KeyError", sent.id), within=30, what=worker.log)


def test_failures_are_kept_and_deliveries_bounded_as_the_argument_says(
    redis: RedisServer, start: Start, sender: Celery, key: str
) -> None:
    with start({"dead_letters": "all"}, queues=key) as worker:
        sent = sender.send_task("featured.fail", ["trouble"], queue=key)
        store = Store(sender, StoreSettings(url=redis.url(STORE)))
        (letter,) = eventually(lambda: list(LetterStreams(store).scan(key)), what=worker.log)
        assert (letter.message.task_id, letter.reason, letter.error) == (sent.id, "failed", "KeyError: 'trouble'")
        store.close()


def test_argument_lies_between_environment_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_PATTERNS_DEAD_LETTERS", "none")
    with Celery("x", set_as_current=False) as app:
        install(app, features=Features(dead_letters="all", max_deliveries=2))
        app.conf.update(patterns_dead_letters="declared", patterns_max_deliveries=9, patterns_max_message_bytes="1KB")
        found = ResilienceSettings.of_app(app)
        assert (found.failures, found.max_deliveries, found.max_message_bytes) == ("none", 2, 1000)


def test_features_of_all_places_are_put_together() -> None:
    conf = {"patterns_logs": "json", "patterns_tracing": "off", "patterns_max_deliveries": 3}
    environment = {"CELERY_PATTERNS_TRACING": "otlp-http", "CELERY_PATTERNS_SENTRY": "on", "CELERY_PATTERNS_LOGS": ""}
    found = Features.of(Features(max_deliveries=7), conf, environment)
    assert found == Features(logs="json", tracing="otlp-http", sentry=True, max_deliveries=7)
    assert Features.of(Features(), {}, found.to_environment()) == found


WRONG_VALUES: list[tuple[Callable[[], Any], str]] = [
    (lambda: Features(logs="xml"), "Features.logs: expected one of json, console, off, got 'xml'"),  # type: ignore[arg-type]
    (lambda: Features(max_deliveries=-1), "Features.max_deliveries: expected a whole number from 0 to 1000, got -1"),
    (lambda: Features(sentry="secret"), "Features.sentry: expected true, false or a DSN such as https://key@host/1"),
    (
        lambda: Features.of(Features(), {"patterns_tracing": True}, {}),
        "patterns_tracing: expected one of otlp-http, off, got True",
    ),
    (
        lambda: Features.of(Features(), {}, {"CELERY_PATTERNS_MAX_DELIVERIES": "many"}),
        "CELERY_PATTERNS_MAX_DELIVERIES: expected a whole number from 0 to 1000, got 'many'",
    ),
    (lambda: install(Celery("x", set_as_current=False), features={"logs": "json"}), "features: expected Features("),  # type: ignore[arg-type]
    (
        lambda: check_names({"patterns_log": "json"}, {}),
        "patterns_log: there is no such setting; did you mean patterns_logs?",
    ),
    (lambda: check_names(["patterns_xyzzy"], []), "patterns_xyzzy: there is no such setting; there are patterns_"),
]


@pytest.mark.parametrize(("make", "message"), WRONG_VALUES, ids=[message[:50] for _, message in WRONG_VALUES])
def test_wrong_values_and_names_are_told(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)) as caught:
        make()
    assert "secret" not in str(caught.value)


def test_unknown_variable_is_only_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It may be a newer release's, set for a whole cluster."""
    check_names([], ["CELERY_PATTERNS_MAX_DELIVERY", "PATH"])
    assert caplog.messages == [
        "CELERY_PATTERNS_MAX_DELIVERY: there is no such variable; did you mean CELERY_PATTERNS_MAX_DELIVERIES?"
    ]


ENDS: list[Any] = [
    pytest.param({}, {"patterns_log": "json"}, {}, "patterns_log: there is no such setting", id="name"),
    pytest.param({}, {}, {"CELERY_PATTERNS_LOGS": "xml"}, "CELERY_PATTERNS_LOGS: expected one of", id="value"),
    pytest.param(
        {"logs": "json"},
        {},
        {"FEATURED_MISSING": "structlog"},
        "patterns_logs needs structlog, and structlog is not installed: install celery-operator[worker]",
        id="package",
    ),
    pytest.param(
        {"dead_letters": "all"},
        {},
        {"CELERY_BROKER_URL": "memory://", "CELERY_RESULT_BACKEND": "cache+memory://", "FEATURED_STORE": ""},
        "the setting patterns_dead_letters asks for dead letters, and there is no place for them",
        id="place",
    ),
]


@pytest.mark.parametrize(("argument", "conf", "env", "message"), ENDS)
def test_worker_that_cannot_do_what_is_asked_does_not_begin(
    start: Start, argument: dict[str, Any], conf: dict[str, Any], env: dict[str, str], message: str
) -> None:
    with start(argument, conf, env, wait_ready=False) as worker:
        assert worker.process.wait(40) == 1, worker.log()
        assert f"a setting of celery-patterns is wrong: {message}" in worker.log()
