"""Keys to sign with, and the signing application: its workers, and programs that use it."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from patterns.stage import RESULT_DB, Stage
from servers import Worker

APPS = Path(__file__).parent / "apps"
APP = "signing:app"

SEND = """
import sys
from signing import double
print(double.apply_async((21,), queue=sys.argv[1]).id)
"""
"""A program that sends a task to the queue that it is told, and prints the task's id."""


def make_keys(folder: Path, owner: str) -> Path:
    """Make a folder with somebody's key and certificate."""
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


def signing_worker(stage: Stage, keys: Path) -> AbstractContextManager[Worker]:
    """Start a worker of the signing application with somebody's keys."""
    return stage.worker(app=APP, python_path=APPS, env={"SIGNING_KEYS": str(keys)})


def run(stage: Stage, keys: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Let Python run something beside the signing application, with somebody's keys."""
    urls = {"CELERY_BROKER_URL": stage.broker, "CELERY_RESULT_BACKEND": stage.redis.url(RESULT_DB)}
    return subprocess.run(
        [sys.executable, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=APPS,
        env={**os.environ, **urls, "SIGNING_KEYS": str(keys), **variables},
        timeout=50,
    )


def run_source(stage: Stage, keys: Path, source: str, *arguments: str) -> str:
    """Run a program of the signing application; returns what it prints."""
    done = run(stage, keys, "-c", source, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
