"""Signed messages: what was changed on the way is kept and not run, and doctor makes the round trip."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from patterns.resilience.stage import Stage
from servers import RedisServer, eventually

SENDER = """
from signed import app, double
import sys
print(double.apply_async((21,), queue=sys.argv[1]).id)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signed")])
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
    (folder / "signed.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    return folder


def run(redis: RedisServer, keys: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    urls = {"CELERY_BROKER_URL": redis.url(0), "CELERY_RESULT_BACKEND": redis.url(1), "SIGNED_KEYS": str(keys)}
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=Stage.APPS,
        env={**os.environ, **urls, **variables},
        timeout=40,
    )


def test_message_that_was_changed_on_the_way_is_kept_and_not_run(redis: RedisServer, keys: Path) -> None:
    with Stage.on(redis, redis.url(0)) as stage:
        sent = run(redis, keys, "-c", SENDER, stage.queue)
        good = sent.stdout.strip()
        assert good, sent.stderr
        with redis.client() as client:
            found: Any = client.lrange(stage.queue, 0, 0)
            payload = json.loads(found[0])
            payload["body"] = payload["body"][:-8] + "AAAAAAA="
            payload["headers"]["id"] = "forged"
            payload["properties"]["delivery_tag"] = "forged"
            client.lpush(stage.queue, json.dumps(payload))
        with stage.worker(app="signed:app", env={"SIGNED_KEYS": str(keys)}) as worker:
            (letter,) = stage.wait_letters(1, what=worker.log)
            assert (letter.reason, letter.message.task_id) == ("bad_signature", "forged"), letter.error
            with redis.client(1) as results:
                eventually(lambda: results.get(f"celery-task-meta-{good}"), what=worker.log)
                assert results.get("celery-task-meta-forged") is None


@pytest.mark.parametrize(
    ("variables", "level", "message"),
    [
        ({}, "ok", "a result is stored and read again"),
        ({"SIGNED_RESULTS": "json"}, "error", "result_serializer is 'json', but results of that kind"),
    ],
    ids=["signed", "refused"],
)
def test_doctor_makes_the_round_trip_of_signatures(
    redis: RedisServer, keys: Path, variables: dict[str, str], level: str, message: str
) -> None:
    done = run(redis, keys, "-m", "celery_patterns.cli", "doctor", "-A", "signed:app", "--json", **variables)
    assert done.returncode in (0, 1), done.stderr
    found = [each for each in json.loads(done.stdout) if each["check"] in ("messages", "results")]
    assert {
        "level": "ok",
        "check": "messages",
        "message": "a message written with 'auth' is accepted, signed",
    }.items() <= (next(each for each in found if each["check"] == "messages").items())
    results = [(each["level"], each["message"]) for each in found if each["check"] == "results"]
    assert any(each[0] == level and each[1].startswith(message) for each in results), results
