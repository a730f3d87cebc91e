"""Behind TLS with an authority of one's own, a worker runs with its patterns, and doctor says what is to be set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_patterns import protocol
from celery_patterns.cli.check_tls import advice
from celery_patterns.cli.doctor import examined
from celery_patterns.cli.findings import Level
from celery_patterns.tasks import install
from certificates import authority
from patterns.resilience.stage import Stage
from servers import LOOPBACK, RedisKind, RedisServer, celery_worker, free_port, redis_server

WANTED = {"broker", "store", "results"}


@dataclass
class Guarded:
    """A Redis with a TLS port."""

    redis: RedisServer
    port: int
    authority: Path
    stranger: Path
    """Another authority."""

    def url(self, db: int, *, ca: Path | None = None, requires: str = "required") -> str:
        """Return the URL of a database, checked against an authority."""
        return f"rediss://{LOOPBACK}:{self.port}/{db}?ssl_cert_reqs={requires}&ssl_ca_certs={ca or self.authority}"


@pytest.fixture(scope="module")
def guarded(redis_kind: RedisKind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    own, stranger = (authority(tmp_path_factory.mktemp(name), name) for name in ("own", "stranger"))
    certificate, key = own.sign(LOOPBACK)
    port = free_port()
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", own.file)
    options = ("--tls-port", port, "--tls-auth-clients", "no", *files)
    with redis_server(*map(str, options), kind=redis_kind) as server:
        yield Guarded(server, port, own.file, stranger.file)


def found(broker: str, backend: str, store: str | None, **conf: Any) -> dict[str, tuple[str, str, str]]:
    """Return level, message and advice of broker, results and store, each the first."""
    with Celery("shop", set_as_current=False, broker=broker, backend=backend) as bare:
        bare.conf.update(conf)
        said: dict[str, tuple[str, str, str]] = {}
        for each in examined(install(bare, store=store)):
            said.setdefault(each.check, (str(each.level), each.message, each.advice))
    return {check: finding for check, finding in said.items() if check in WANTED}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("requires", ["required", "CERT_REQUIRED"])
def test_doctor_is_content_with_either_spelling_of_the_url(guarded: Guarded, requires: str) -> None:
    urls = [guarded.url(db, requires=requires) for db in range(3)]
    assert {check: level for check, (level, *_) in found(*urls).items()} == dict.fromkeys(WANTED, "ok")


@pytest.mark.usefixtures("quickly")
def test_the_brokers_settings_for_tls_are_the_stores_if_it_is_the_brokers(guarded: Guarded) -> None:
    url = guarded.url(0).split("?", maxsplit=1)[0].replace("rediss://", "redis://")
    said = found(url, "cache+memory://", None, broker_use_ssl={"ssl_ca_certs": str(guarded.authority)})
    assert {check: level for check, (level, *_) in said.items()} == dict.fromkeys(WANTED, "ok")


@pytest.mark.usefixtures("quickly")
def test_a_wrong_authority_is_told_with_what_to_set(guarded: Guarded) -> None:
    said = found(*(guarded.url(db, ca=guarded.stranger) for db in range(3)))
    assert {level for level, *_ in said.values()} == {"error"}
    assert [check for check, (_, message, _) in said.items() if "certificate verify failed" not in message] == []
    assert [check for check, (*_, advice) in said.items() if "ssl_ca_certs=FILE" not in advice] == []


@pytest.mark.usefixtures("quickly")
def test_a_url_without_what_celery_wants_to_be_said_is_an_error_that_says_it(guarded: Guarded) -> None:
    bare = guarded.url(1).split("?", maxsplit=1)[0]
    level, message, _ = found(guarded.url(0), bare, guarded.url(2))["results"]
    assert (level, "must have parameter ssl_cert_reqs" in message) == ("error", True)


@pytest.mark.usefixtures("quickly")
def test_a_port_of_the_other_sort_and_a_file_that_is_missing_are_told_apart(guarded: Guarded, tmp_path: Path) -> None:
    broker, backend = (guarded.url(db).replace(f":{guarded.port}/", f":{guarded.redis.port}/") for db in range(2))
    missing = guarded.url(2, ca=tmp_path / "none.pem")
    said = found(broker, backend, missing)
    # Such a server waits for more of what it takes for a command: without an end doctor would wait with it.
    assert {said[check][2][-36:] for check in ("broker", "results")} == {"for rediss:// a port that speaks TLS"}
    said = found(guarded.url(0), f"redis://{LOOPBACK}:{guarded.port}/1", missing)
    assert said["results"][2].startswith("its log: a TLS port wants rediss://")
    assert said["store"][2].startswith("files that exist as ssl_ca_certs")


@pytest.mark.usefixtures("quickly")
def test_a_server_that_wants_a_certificate_of_its_clients_says_which_settings(guarded: Guarded) -> None:
    with guarded.redis.client() as client:
        client.config_set("tls-auth-clients", "yes")
        try:
            said = found(*(guarded.url(db) for db in range(3)))
        finally:
            client.config_set("tls-auth-clients", "no")
    assert [(check, said[check]) for check in WANTED if "ssl_certfile=FILE" not in said[check][2]] == []


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        (
            "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'",
            "a URL with a name",
        ),
        ("certificate verify failed: certificate has expired (_ssl.c:1006)", "a new certificate"),
        ("Connection refused", "otherwise"),
    ],
)
def test_the_narrowest_advice_wins(said: str, helps: str) -> None:
    assert advice(said, "otherwise").startswith(helps)


def test_a_worker_runs_its_patterns_behind_tls(guarded: Guarded) -> None:
    broker, backend, store = (guarded.url(db) for db in (4, 5, 6))
    env = {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": backend, "CELERY_PATTERNS_STORE_URL": store}
    header = protocol.TaskIdentity("0e7b4bd4-4a06-4d53-8e9d-36a1a3a0d2f5", run=1, step="s", index=0, attempt=1)
    with (
        Celery("caller", set_as_current=False, broker=broker, backend=backend) as app,
        celery_worker(
            broker=broker, backend=backend, app="entitled:app", python_path=Stage.APPS, env=env, talkative=True
        ) as worker,
    ):
        sent = [
            app.send_task(name, [argument]) for name, argument in (("charge", "o1"), ("charge", "o1"), ("doomed", "x"))
        ]
        sent.append(
            app.send_task("plain", [1], task_id=header.task_id, headers={protocol.TASK_HEADER: header.to_header()})
        )
        answers = [each.get(timeout=30, propagate=False) for each in sent]
        assert [str(each) for each in answers] == ["o1", "o1", "x", "1"], worker.log()
        assert worker.state().ready
        assert "SSL" not in worker.log()


@pytest.mark.parametrize(("requires", "level"), [("none", Level.WARNING), ("required", Level.OK)])
def test_a_certificate_that_nobody_checks_is_warned_of(guarded: Guarded, requires: str, level: Level) -> None:
    urls = {"broker": guarded.url(0, requires=requires), "backend": guarded.url(1, requires=requires)}
    with Celery("shop", set_as_current=False, **urls) as app:
        told = [each for each in examined(app) if each.check == "tls"]
    assert {each.level for each in told} == {level}
    assert {each.message.split(":")[0] for each in told} >= {"results"}
