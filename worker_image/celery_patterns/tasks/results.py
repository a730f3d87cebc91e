"""What callers hold of a task: Celery's own results, which exchange the claim for a result that is stored apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from celery.result import AsyncResult, GroupResult, ResultSet

from celery_patterns.tasks import claims
from celery_patterns.tasks.patterns import patterns_of


class ExchangingResult(AsyncResult):  # type: ignore[misc]
    """An ``AsyncResult`` whose value is never a claim.

    Raises:
        PayloadUnavailable: When the value is asked for, and is not where the claim says.
    """

    _exchanged: tuple[str, Any] | None = None

    def get(self, *args: Any, callback: Callable[[str, Any], Any] | None = None, **kwargs: Any) -> Any:
        """Wait for the result and return it, as Celery does."""
        if callback is not None:
            kwargs["callback"] = lambda task_id, value: callback(task_id, self._exchange(value))
        return self._exchange(super().get(*args, **kwargs))

    wait = get

    @property
    def result(self) -> Any:
        """The value, or the exception, that the task ended with."""
        return self._exchange(super().result)

    info = result

    def _exchange(self, value: Any) -> Any:
        claim = claims.claim_in(value)
        if claim is None:
            return value
        if self._exchanged is None or self._exchanged[0] != claim["path"]:
            self._exchanged = (claim["path"], _fetch(self.app, self.id, claim))
        return self._exchanged[1]


class _ExchangingSet:
    """Mixed in before a set of results: backends that join by themselves do not ask each one."""

    app: Any

    def iter_native(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yield id and record of each as they end."""
        for task_id, meta in super().iter_native(*args, **kwargs):  # type: ignore[misc]
            claim = claims.claim_in(meta["result"]) if isinstance(meta, dict) else None
            yield task_id, meta if claim is None else {**meta, "result": _fetch(self.app, task_id, claim)}


class ExchangingSet(_ExchangingSet, ResultSet):  # type: ignore[misc]
    """A ``ResultSet`` whose values are no claims."""


class ExchangingGroup(_ExchangingSet, GroupResult):  # type: ignore[misc]
    """A ``GroupResult`` whose values are no claims."""


def exchange_in(app: Any) -> None:
    """Let an application's results be of these classes; twice is once. One that has classes of its own keeps them."""
    for kind, mine in ((AsyncResult, ExchangingResult), (ResultSet, ExchangingSet), (GroupResult, ExchangingGroup)):
        name = kind.__name__
        if getattr(app, name).__mro__[1] is kind:
            setattr(app, name, app.subclass_with_self(mine, name=name, reverse=name))


def _fetch(app: Any, task_id: str, claim: dict[str, Any]) -> Any:
    accept = app.conf.result_accept_content or app.conf.accept_content
    return claims.fetch(patterns_of(app).store.settings.blob_url, claim, f"the result of task {task_id}", accept)
