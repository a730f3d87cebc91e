"""Claim checks: what is too large for a message or a result lies in a folder, under a name that is its hash.

The folder is one of any fsspec file system. A claim stands in the place of the value: a JSON object with one key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kombu import serialization

from celery_patterns import protocol
from celery_patterns.tasks.errors import PayloadUnavailable
from celery_patterns.tasks.policy import PolicyError

CLAIM: Final = "__celery_patterns_claim__"
RESULT: Final = "result"
"""In a claim: it stands for a task's result, which lies in the application's folder and not in a policy's own."""

BASE64: Final = "base64"
"""After what is stored: the serializer did not write text."""

_dumps: Any = serialization.dumps
_loads: Any = serialization.loads
_accepted: Any = serialization.prepare_accept_content


def encode(value: Any, serializer: str) -> bytes:
    """Return a value with its own description, so that it can be read whatever the settings are by then.

    Raises:
        EncodeError: If the serializer cannot write the value.
    """
    content_type, encoding, data = _dumps(value, serializer=serializer)
    if isinstance(data, str):
        return json.dumps([content_type, encoding, data]).encode()
    return json.dumps([content_type, encoding, base64.b64encode(data).decode(), BASE64]).encode()


def store(folder: str, encoded: bytes, *, result: bool = False) -> dict[str, Any]:
    """Store what ``encode`` wrote, and return the claim for it.

    Raises:
        OSError: If the folder cannot be written to; or whatever else its file system raises.
    """
    path = f"{datetime.now(UTC):%Y-%m-%d}/{hashlib.sha256(encoded).hexdigest()}"
    files, root = open_folder(folder)
    # Its name is its content: storing it twice is harmless, and a second try finds it.
    files.makedirs(f"{root}/{path.split('/', maxsplit=1)[0]}", exist_ok=True)
    whole = f"{root}/{path}"
    kinds = files.protocol
    if "file" in ((kinds,) if isinstance(kinds, str) else kinds):
        # Unlike an object store's, a file can be read while it is written, also by who has the claim of another's.
        part = f"{whole}.{protocol.new_token()}"
        files.pipe_file(part, encoded)
        Path(part).replace(whole)
    else:
        files.pipe_file(whole, encoded)
    return {CLAIM: {"path": path, "size": len(encoded), **({RESULT: True} if result else {})}}


def claim_in(value: Any) -> dict[str, Any] | None:
    """Return what a claim says; None if the value is no claim.

    Raises:
        PayloadUnavailable: If it is a malformed one.
    """
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get(CLAIM), dict):
        claim: dict[str, Any] = value[CLAIM]
        parts = str(claim.get("path")).split("/")
        # It comes from a message: it must not lead out of the folder.
        if len(parts) == 2 and all(part.replace("-", "").isalnum() for part in parts):
            return claim
        raise PayloadUnavailable(f"a message holds a malformed claim: {claim!r}")
    return None


def fetch(folder: str | None, claim: dict[str, Any], what: str, accept: Iterable[str]) -> Any:
    """Return the value that a claim stands for.

    Args:
        folder: Where it lies; None: no place is known.
        claim: What ``claim_in`` has found.
        what: Names it in errors.
        accept: Serializers whose texts are read, as for messages.

    Raises:
        ContentDisallowed: If it was written by another.
        PayloadUnavailable: If no folder is known, or it is not there any more, or damaged.
        OSError: If the folder cannot be read; or whatever else its file system raises.
    """
    if folder is None:
        raise PayloadUnavailable(
            f"{what} is stored apart, and this process knows no place: set CELERY_PATTERNS_BLOB_URL to the folder of "
            "the process that stored it"
        )
    files, root = open_folder(folder)
    place = f"{protocol.mask_url(folder)}/{claim['path']}"
    try:
        encoded = files.cat_file(f"{root}/{claim['path']}")
    except FileNotFoundError:
        raise PayloadUnavailable(f"{what} is not at {place} any more") from None
    if hashlib.sha256(encoded).hexdigest() != str(claim["path"]).rpartition("/")[2]:
        raise PayloadUnavailable(f"{what} at {place} is damaged: its hash differs")
    content_type, encoding, data, *wrapped = json.loads(encoded)
    body = base64.b64decode(data) if wrapped else data
    return _loads(body, content_type, encoding, accept=_accepted(list(accept)))


def open_folder(folder: str) -> tuple[Any, str]:
    """Return the file system of a folder, and the folder's path there.

    Raises:
        PolicyError: If fsspec is not installed.
    """
    try:
        from fsspec.core import (  # type: ignore[import-untyped] # noqa: PLC0415 - optional, and without types
            url_to_fs,
        )
    except ImportError as error:
        raise PolicyError("payloads are stored apart with fsspec: install celery-operator[worker]") from error
    files, root = url_to_fs(folder)
    return files, root.rstrip("/")
