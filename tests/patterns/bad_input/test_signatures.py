"""A signed application meets messages and results that nobody it trusts has signed."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from patterns.bad_input.stage import Raw, Stage
from patterns.stage import RESULT_DB
from servers import RedisServer, Worker


def make_keys(folder: Path, owner: str) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner)])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - certificates are of real time
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "own.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return folder


Keys = tuple[Path, Path]
"""Ours, and a stranger's."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    return make_keys(folder / "ours", "ours"), make_keys(folder / "strangers", "stranger")


@pytest.fixture(scope="module")
def running(redis: RedisServer, broker: str, keys: Keys) -> Iterator[tuple[Stage, Worker]]:
    env = {"SIGNING_KEYS": str(keys[0])}
    with Stage.on(redis, broker) as stage, stage.worker(app="signing:app", env=env) as worker:
        yield stage, worker


def run(stage: Stage, keys: Path, source: str, *arguments: str) -> str:
    """Run a program of the signed application with somebody's keys; returns what it prints."""
    urls = {"CELERY_BROKER_URL": stage.broker, "CELERY_RESULT_BACKEND": stage.redis.url(RESULT_DB)}
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=Stage.APPS,
        env={**os.environ, **urls, "SIGNING_KEYS": str(keys)},
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SEND = """
import sys
from signing import double
print(double.apply_async((21,), queue=sys.argv[1]).id)
"""
SEND_AND_GET = """
import sys
from signing import double
print(double.apply_async((21,), queue=sys.argv[1]).get(timeout=40))
"""
STORE = """
import sys
from signing import app
app.backend.store_result(sys.argv[1], 42, "SUCCESS")
"""
GET = """
import sys
from signing import app
try:
    print(app.AsyncResult(sys.argv[1]).get(timeout=20))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_message_that_a_stranger_signed_is_kept_and_not_run(running: tuple[Stage, Worker], keys: Keys) -> None:
    stage, worker = running
    stage.letters.purge(stage.queue)
    sent = run(stage, keys[1], SEND, stage.queue)
    (letter,) = stage.wait_letters(1, what=worker.log)
    assert (letter.reason, letter.message.task_id) == ("bad_signature", sent), letter.error
    assert run(stage, keys[0], SEND_AND_GET, stage.queue) == "42", "the worker goes on"
    with stage.redis.client(RESULT_DB) as results:
        assert results.get(f"celery-task-meta-{sent}") is None, "nobody may write a failure for any id"


def test_message_that_nobody_signed_is_kept_and_not_run(running: tuple[Stage, Worker]) -> None:
    stage, worker = running
    stage.letters.purge(stage.queue)
    stage.put(Raw(json.dumps([[21], {}, {}]).encode(), {"task": "double", "id": "unsigned"}))
    (letter,) = stage.wait_letters(1, what=worker.log)
    assert (letter.reason, letter.message.task_id) == ("undecodable", "unsigned")
    assert letter.error.startswith("ContentDisallowed: Refusing to deserialize untrusted content of type json")
    assert letter.error.endswith("accept_content is ['auth'] here")
    with stage.redis.client(RESULT_DB) as results:
        assert results.get("celery-task-meta-unsigned") is None
    stage.wait_idle(worker)


def test_result_that_a_stranger_signed_is_refused_by_the_client(running: tuple[Stage, Worker], keys: Keys) -> None:
    stage, _ = running
    run(stage, keys[1], STORE, "forged")
    answer = run(stage, keys[0], GET, "forged")
    assert answer.startswith("DecodeError: Unable to deserialize: SecurityError(\"Unknown certificate: b'stranger ")
    run(stage, keys[0], STORE, "true")
    assert run(stage, keys[0], GET, "true") == "42"
