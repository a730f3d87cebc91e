"""Large arguments and results: stored apart, and passed by a claim check that whoever reads them exchanges.

Brokers are for small messages: a large one takes the broker's memory once for every copy, and above some hundreds of
megabytes Redis refuses it. The place is a folder of any fsspec file system (``s3://``, ``gs://``, ``file://``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from typing_extensions import override

from celery_patterns import protocol
from celery_patterns.tasks import claims, followers, options, results
from celery_patterns.tasks.errors import ResultTooLarge
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Policy, PolicyError, Publication


class PayloadTooLarge(ValueError):  # noqa: N818 - it says what the payload is
    """A message is larger than the policy allows, and no place to store it apart is configured."""


@dataclass(frozen=True, slots=True)
class PayloadLimit(Policy):
    """No message is larger than ``above``, no result larger than ``results``: what makes it so is stored apart.

    Raises:
        PolicyError: If an option is wrong.
    """

    above: options.Size = "64KB"
    """Encoded size of the arguments from which the largest ones are stored apart."""
    store: str | None = None
    """fsspec URL of the folder; None: the setting ``patterns_blob_url``. Without either, such a call is refused."""
    results: options.Size | None = None
    """Encoded size of the result from which it is stored apart, in the folder of ``patterns_blob_url``, which whoever
    reads it knows too. Without it, or where it could not be read, the task fails: ResultTooLarge. None: no limit."""

    name: ClassVar[str] = "payload"
    order: ClassVar[int] = 10
    _bytes: int = field(init=False, repr=False, compare=False, default=0)
    _result_bytes: int | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bytes", options.size("PayloadLimit.above", self.above, low=256))
        if self.store is not None and "://" not in options.text("PayloadLimit.store", self.store):
            raise PolicyError(f"PayloadLimit.store: expected scheme://folder, got {protocol.mask_url(self.store)!r}")
        if self.results is not None:
            object.__setattr__(self, "_result_bytes", options.size("PayloadLimit.results", self.results, low=256))

    @override
    def bind(self, task: Any) -> None:
        """Let this application's callers exchange claims, also one that ``install`` has not seen."""
        if self.results is not None:
            results.exchange_in(task.app)

    # ---- arguments

    @override
    def publish(self, publication: Publication) -> None:
        if publication.retrying:
            return
        serializer = publication.options.get("serializer") or publication.task.serializer
        parts: list[tuple[int, str | int, bytes]] = []
        places: list[tuple[int | str, Any]] = [*enumerate(publication.args), *publication.kwargs.items()]
        for where, value in places:
            encoded = claims.encode(value, serializer)
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
        folder = self.store or _folder_of(task)
        if folder is None:
            raise PayloadTooLarge(
                f"{what}, and {self._bytes} are allowed in a message; to have larger ones stored apart set "
                "CELERY_PATTERNS_BLOB_URL or patterns_blob_url to a folder that all workers reach (s3://bucket/claims)"
            )
        return claims.store(folder, encoded)

    @override
    def resolve(
        self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (
            tuple(self._exchanged(task, value) for value in args),
            {name: self._exchanged(task, value) for name, value in kwargs.items()},
        )

    def _exchanged(self, task: Any, value: Any) -> Any:
        value = self._fetched(task, value)
        # A chord's body gets a list of its tasks' results.
        return [self._fetched(task, each) for each in value] if isinstance(value, list) else value

    def _fetched(self, task: Any, value: Any) -> Any:
        claim = claims.claim_in(value)
        if claim is None:
            return value
        folder = None if claim.get(claims.RESULT) else self.store
        accept = task.app.conf.accept_content
        return claims.fetch(folder or _folder_of(task), claim, f"an argument of {task.name}", accept)

    # ---- results

    @override
    def returned(self, task: Any, request: Any, value: Any) -> Any:
        """Store a result apart that is larger than allowed.

        Raises:
            ResultTooLarge: If that is not possible, or would leave somebody with a claim who cannot exchange it.
        """
        if self._result_bytes is None or not followers.is_wanted(task, request):
            return value
        claim, encoded = claims.claim_in(value), b""
        if claim is None:
            encoded = claims.encode(task.backend.prepare_value(value), task.backend.serializer)
        size = len(encoded) or int(claim["size"] if claim else 0)
        if size <= self._result_bytes:
            return value
        folder, hindrance = _folder_of(task), followers.hindrance(request, lambda name: _exchanges(task, name))
        if hindrance is None and folder is None:
            hindrance = (
                "to have larger ones stored apart set CELERY_PATTERNS_BLOB_URL or patterns_blob_url to a folder that "
                "all workers and callers reach (s3://bucket/claims), or return a reference"
            )
        if hindrance is not None or folder is None:
            raise ResultTooLarge(
                f"the result of {task.name} has {size} bytes, and {self._result_bytes} are allowed: {hindrance}"
            )
        return value if claim is not None else claims.store(folder, encoded, result=True)


def _folder_of(task: Any) -> str | None:
    return patterns_of(task.app).store.settings.blob_url


def _exchanges(task: Any, name: str) -> bool:
    """Whether a task of this name exchanges the claims that it gets."""
    plan = getattr(task.app.tasks.get(name), "plan", None)
    return any(isinstance(policy, PayloadLimit) for policy in getattr(plan, "policies", ()))


def purge_claims(folder: str, older: options.Duration) -> int:
    """Delete the payloads that were stored more than ``older`` ago, by whole days; returns how many days went.

    Raises:
        PolicyError: If ``older`` is no duration.
    """
    seconds = options.duration("older", older, low=86_400)
    limit = f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%d}"
    files, root = claims.open_folder(folder)
    days = [str(entry).rstrip("/") for entry in files.ls(root, detail=False)]
    old = [day for day in days if len(day.rpartition("/")[2]) == len(limit) and day.rpartition("/")[2] < limit]
    for day in old:
        files.rm(day, recursive=True)
    return len(old)
