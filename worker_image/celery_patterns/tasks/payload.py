"""Large arguments: stored apart, and passed by a claim check that the worker exchanges for them.

Brokers are for small messages: a large one takes the broker's memory once for every copy, and above some hundreds of
megabytes Redis refuses it. The place is a folder of any fsspec file system (``s3://``, ``gs://``, ``file://``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from kombu import serialization
from typing_extensions import override

from celery_patterns import protocol
from celery_patterns.tasks import options
from celery_patterns.tasks.errors import PayloadUnavailable
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Policy, PolicyError, Publication

CLAIM = "__celery_patterns_claim__"
"""A JSON object with this single key stands where a large argument will be."""

_dumps: Any = serialization.dumps
_loads: Any = serialization.loads


class PayloadTooLarge(ValueError):  # noqa: N818 - it says what the payload is
    """A message is larger than the policy allows, and no place to store it apart is configured."""


@dataclass(frozen=True, slots=True)
class PayloadLimit(Policy):
    """No message is larger than ``above``: what makes it so is stored apart.

    Raises:
        PolicyError: If an option is wrong.
    """

    above: options.Size = "64KB"
    """Encoded size of the arguments from which the largest ones are stored apart."""
    store: str | None = None
    """fsspec URL of the folder; None: the setting ``patterns_blob_url``. Without either, such a call is refused."""

    name: ClassVar[str] = "payload"
    order: ClassVar[int] = 10
    _bytes: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bytes", options.size("PayloadLimit.above", self.above, low=256))
        if self.store is not None and "://" not in options.text("PayloadLimit.store", self.store):
            raise PolicyError(f"PayloadLimit.store: expected scheme://folder, got {protocol.mask_url(self.store)!r}")

    @override
    def publish(self, publication: Publication) -> None:
        if publication.retrying:
            return
        encode = _encoder(publication)
        parts: list[tuple[int, str | int, bytes]] = []
        places: list[tuple[int | str, Any]] = [*enumerate(publication.args), *publication.kwargs.items()]
        for where, value in places:
            encoded = encode(value)
            parts.append((len(encoded), where, encoded))
        left = sum(length for length, _, _ in parts)
        args = list(publication.args)
        for length, where, encoded in sorted(parts, key=lambda part: part[0], reverse=True):
            if left <= self._bytes:
                break
            claim = self._store(publication.task, encoded, f"{publication.name}: its arguments have {left} bytes")
            left -= length
            if isinstance(where, int):
                args[where] = claim
            else:
                publication.kwargs[where] = claim
        publication.args = tuple(args)

    def _store(self, task: Any, encoded: bytes, what: str) -> dict[str, Any]:
        folder = self._folder(task)
        if folder is None:
            raise PayloadTooLarge(
                f"{what}, and {self._bytes} are allowed in a message; to have larger ones stored apart set "
                "CELERY_PATTERNS_BLOB_URL or patterns_blob_url to a folder that all workers reach (s3://bucket/claims)"
            )
        digest = hashlib.sha256(encoded).hexdigest()
        path = f"{datetime.now(UTC):%Y-%m-%d}/{digest}"
        files, root = _open(folder)
        # Its name is its content: storing it twice is harmless, and a retry of the publisher finds it.
        files.makedirs(f"{root}/{path.split('/', maxsplit=1)[0]}", exist_ok=True)
        files.pipe_file(f"{root}/{path}", encoded)
        return {CLAIM: {"path": path, "size": len(encoded)}}

    @override
    def resolve(
        self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not any(_claim(value) for value in (*args, *kwargs.values())):
            return args, kwargs
        return (
            tuple(self._fetch(task, value) for value in args),
            {name: self._fetch(task, value) for name, value in kwargs.items()},
        )

    def _fetch(self, task: Any, value: Any) -> Any:
        claim = _claim(value)
        if claim is None:
            return value
        folder = self._folder(task)
        if folder is None:
            raise PayloadUnavailable(
                f"an argument of {task.name} is stored apart, and this worker knows no place: set "
                "CELERY_PATTERNS_BLOB_URL to the same folder as the publisher's"
            )
        files, root = _open(folder)
        place = f"{protocol.mask_url(folder)}/{claim['path']}"
        try:
            encoded = files.cat_file(f"{root}/{claim['path']}")
        except FileNotFoundError:
            raise PayloadUnavailable(f"an argument of {task.name} is not at {place} any more") from None
        if hashlib.sha256(encoded).hexdigest() != str(claim["path"]).rpartition("/")[2]:
            raise PayloadUnavailable(f"an argument of {task.name} at {place} is damaged: its hash differs")
        content_type, encoding, data = json.loads(encoded)
        return _loads(data, content_type, encoding, accept=[content_type])

    def _folder(self, task: Any) -> str | None:
        return self.store or patterns_of(task.app).store.settings.blob_url


def purge_claims(folder: str, older: options.Duration) -> int:
    """Delete the payloads that were stored more than ``older`` ago, by whole days; returns how many days went.

    Raises:
        PolicyError: If ``older`` is no duration.
    """
    seconds = options.duration("older", older, low=86_400)
    limit = f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%d}"
    files, root = _open(folder)
    days = [str(entry).rstrip("/") for entry in files.ls(root, detail=False)]
    old = [day for day in days if len(day.rpartition("/")[2]) == len(limit) and day.rpartition("/")[2] < limit]
    for day in old:
        files.rm(day, recursive=True)
    return len(old)


def _claim(value: Any) -> dict[str, Any] | None:
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get(CLAIM), dict):
        claim: dict[str, Any] = value[CLAIM]
        parts = str(claim.get("path")).split("/")
        # It comes from a message: it must not lead out of the folder.
        if len(parts) == 2 and all(part.replace("-", "").isalnum() for part in parts):
            return claim
        raise PayloadUnavailable(f"a message holds a malformed claim: {claim!r}")
    return None


def _encoder(publication: Publication) -> Callable[[Any], bytes]:
    serializer = publication.options.get("serializer") or publication.task.serializer

    def encode(value: Any) -> bytes:
        content_type, encoding, data = _dumps(value, serializer=serializer)
        if not isinstance(data, str):
            raise PolicyError(f"PayloadLimit: expected a serializer that writes text, such as json, got {serializer!r}")
        return json.dumps([content_type, encoding, data]).encode()

    return encode


def _open(folder: str) -> tuple[Any, str]:
    try:
        from fsspec.core import (  # type: ignore[import-untyped] # noqa: PLC0415 - optional, and without types
            url_to_fs,
        )
    except ImportError as error:
        raise PolicyError("payloads are stored apart with fsspec: install celery-operator[worker]") from error
    files, root = url_to_fs(folder)
    return files, root.rstrip("/")
