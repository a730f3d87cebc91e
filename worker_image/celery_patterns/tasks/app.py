"""Three ways to one thing: policies for an application's tasks.

app = install(Celery("shop"), store="redis://redis:6379/3")     # an application that exists
app = PatternApp("shop", store="redis://redis:6379/3")          # or one made for it

@app.pattern_task(retry=Retry(on=OSError), idempotent=Idempotent(key="{order_id}"))
def charge(order_id): ...

@app.task(base=PatternTask, policies=[Retry(on=OSError)])       # the same, in Celery's own words
def refund(order_id): ...
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import celery

from celery_patterns.store import StoreSettings
from celery_patterns.tasks import joining, results
from celery_patterns.tasks.features import Features
from celery_patterns.tasks.patterns import ATTRIBUTE, Patterns
from celery_patterns.tasks.policy import Policy, PolicyError
from celery_patterns.tasks.task import PatternTask

A = TypeVar("A")


def pattern_task(app: Any, *function: Callable[..., Any], policies: Any = (), **options: Any) -> Any:
    """Declare a task with policies, each as a keyword of any name; every other option is Celery's.

    Raises:
        PolicyError: If a policy's option is wrong (when the application finds its tasks).
    """
    given = [value for value in options.values() if isinstance(value, Policy)]
    rest = {name: value for name, value in options.items() if not isinstance(value, Policy)}
    for name, value in rest.items():
        if isinstance(value, type) and issubclass(value, Policy):
            raise PolicyError(f"{name}: got the class {value.__name__}, write {value.__name__}(...)")
    rest.setdefault("base", PatternTask)
    return app.task(*function, policies=[*policies, *given], **rest)


def install(
    app: A,
    *,
    store: str | None = None,
    prefix: str | None = None,
    lease: float | None = None,
    blob: str | None = None,
    features: Features | None = None,
) -> A:
    """Give an application ``pattern_task``, say where its patterns keep their state, and what its workers turn on.

    Workers of this application keep dead letters and stop poison from now on, with and without the agent.

    Args:
        app: A Celery application; returned.
        store: Redis URL. None: the setting ``patterns_store_url``, else a Redis result backend or broker.
        prefix: First part of all keys.
        lease: How long what a dead worker held stays taken, in seconds.
        blob: fsspec URL for large payloads.
        features: Logs, traces, Sentry, dead letters and the guard against poison.

    Raises:
        ValueError: If one of them is not of its form.
    """
    said: Any = features
    if said is not None and not isinstance(said, Features):
        raise PolicyError(f"features: expected Features(logs='json', ...), got {said!r}")
    given = {"url": store, "prefix": prefix, "lease_seconds": lease, "blob_url": blob}
    given = {name: value for name, value in given.items() if value is not None}
    settings: Callable[[], StoreSettings] | None = None
    if given:
        StoreSettings(**given)  # type: ignore[arg-type] # what is wrong is said here, where it stands
        settings = partial(_settings, app, given)
    setattr(app, ATTRIBUTE, Patterns(app, settings, features))
    joining.install()
    results.exchange_in(app)
    app.pattern_task = partial(pattern_task, app)  # type: ignore[attr-defined]
    return app


def _settings(app: Any, given: dict[str, Any]) -> StoreSettings:
    """What stands in the code wins over the configuration; the environment, which is the operator's, over both."""
    configured = StoreSettings.of(app.conf, {})
    return StoreSettings.of(
        {f"patterns_{_SETTING[name]}": value for name, value in {**dataclasses.asdict(configured), **given}.items()},
        os.environ,
    )


_SETTING = {"url": "store_url", "prefix": "prefix", "lease_seconds": "lease_seconds", "blob_url": "blob_url"}


class PatternApp(celery.Celery):  # type: ignore[misc]
    """A Celery application with ``pattern_task``; the arguments that ``install`` has, and Celery's own."""

    def __init__(
        self,
        main: str | None = None,
        *,
        store: str | None = None,
        prefix: str | None = None,
        lease: float | None = None,
        blob: str | None = None,
        features: Features | None = None,
        **options: Any,
    ) -> None:
        super().__init__(main, **options)
        install(self, store=store, prefix=prefix, lease=lease, blob=blob, features=features)
