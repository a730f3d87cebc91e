"""Wrong options of policies name the option, what was expected and what was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from hypothesis import example, given
from hypothesis import strategies as st

from celery_patterns.store import Store, StoreNotConfigured, StoreSettings
from celery_patterns.tasks import (
    DeadLetter,
    Idempotent,
    PatternTask,
    PayloadLimit,
    PolicyError,
    RateLimit,
    Retry,
    Singleton,
    Timeout,
    batch_task,
    install,
)
from celery_patterns.tasks.keys import KeyUnreadable, bind_arguments, render
from celery_patterns.tasks.options import duration, size


def untyped(policy: Any) -> Any:
    """Let a test say what a type checker would refuse."""
    return policy


Wrong = list[tuple[Callable[[], Any], str]]

WRONG: Wrong = [
    (lambda: untyped(Idempotent)(ttl="soon"), "Idempotent.ttl: expected seconds or a text such as '250ms'"),
    (lambda: untyped(Idempotent)(ttl=True), "Idempotent.ttl: expected seconds"),
    (lambda: untyped(Idempotent)(ttl=float("nan")), "Idempotent.ttl: expected seconds"),
    (
        lambda: untyped(Idempotent)(result="repeat"),
        "Idempotent.result: expected one of replay, ignore, conflict, got 'repeat'",
    ),
    (
        lambda: untyped(Idempotent)(in_flight="wait"),
        "Idempotent.in_flight: expected one of wait_retry, reject, got 'wait'",
    ),
    (lambda: untyped(Singleton)(scope="all"), "Singleton.scope: expected one of queued, running, both, got 'all'"),
    (lambda: untyped(Singleton)(on_duplicate="return_existing"), "use scope 'both' or 'queued'"),
    (lambda: untyped(Singleton)(lease="1ms"), "Singleton.lease: expected seconds or a text such as"),
    (
        lambda: untyped(RateLimit)("fast"),
        "RateLimit.rate: expected a text such as '100/s', '10/m', '5/10s', got 'fast'",
    ),
    (lambda: untyped(RateLimit)(100), "RateLimit.rate: expected a text such as"),
    (lambda: untyped(RateLimit)("0/s"), "RateLimit.rate: expected a text such as"),
    (lambda: untyped(RateLimit)("1/s", burst=0), "RateLimit.burst: expected a whole number from 1 to"),
    (lambda: untyped(RateLimit)("1/s", if_store_down="maybe"), "RateLimit.if_store_down: expected one of open, closed"),
    (
        lambda: untyped(Retry)(on="OSError"),
        "Retry.on: expected exception types such as (OSError, TimeoutError), got 'OSError'",
    ),
    (lambda: untyped(Retry)(rules={"on": OSError}), "Retry.rules: expected Rules(...) of celery_patterns.resilience"),
    (lambda: untyped(Retry)(max=-1), "Retry.max: expected a whole number from 0 to"),
    (lambda: untyped(Retry)(max=2.5), "Retry.max: expected a whole number"),
    (lambda: untyped(Retry)(jitter=0.5), "Retry.jitter: expected one of full, equal, none, got 0.5"),
    (lambda: untyped(Retry)(budget="10%"), "Retry.budget: expected something with spend(call, error), got '10%'"),
    (Timeout, "Timeout: expected soft, hard or both, got neither"),
    (lambda: untyped(Timeout)(soft="60s", hard="50s"), "Timeout.soft: expected less than hard ('50s'), got '60s'"),
    (
        lambda: untyped(DeadLetter)(reasons="failed"),
        "DeadLetter.reasons: expected a tuple such as ('failed', 'timeout')",
    ),
    (
        lambda: DeadLetter(reasons=("poison",)),
        "DeadLetter.reasons: expected one of failed, refused, rejected, timeout, worker_lost, got 'poison'",
    ),
    (lambda: untyped(PayloadLimit)(above="64 bananas"), "PayloadLimit.above: expected bytes or a text such as '64KB'"),
    (lambda: untyped(PayloadLimit)(results=7), "PayloadLimit.results: expected"),
    (lambda: untyped(PayloadLimit)(store="/claims"), "PayloadLimit.store: expected scheme://folder, got '/claims'"),
    (lambda: batch_task(None, name="b", max_items=0), "batch_task.max_items: expected a whole number from 1 to 100000"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_option_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        make()


DECLARED: list[tuple[Any, str]] = [
    ([Idempotent(key="{order}")], "Idempotent.key: '{order}' names 'order'; the parameters of t are: a, b"),
    (
        [Singleton(key="{a")],
        "Singleton.key: expected a template over the task's arguments such as '{order_id}', got '{a'",
    ),
    ([Singleton(key="{a}{b}")], "Singleton.key: '{a}{b}' has two fields with nothing between them"),
    ([Retry(), Retry()], "policies of t: two of them are retry; one task has one of a kind"),
    ([Retry], "policies of t: got the class Retry, write Retry(...)"),
    (["retry"], "policies of t: expected policies such as Retry(...), got 'retry'"),
    (Retry(), "policies of t: expected a list of policies, got Retry("),
]


@pytest.mark.parametrize(("policies", "message"), DECLARED, ids=[message[:40] for _, message in DECLARED])
def test_policies_that_do_not_fit_the_task_are_refused_at_its_declaration(policies: Any, message: str) -> None:
    def t(a: int, b: int = 0) -> int:
        return a + b

    with Celery("x", set_as_current=False) as app:
        app.task(base=PatternTask, name="t", policies=policies, shared=False)(t)
        with pytest.raises(PolicyError, match=re.escape(message)):
            app.finalize()


def test_policies_are_sorted_whatever_their_order_in_the_declaration() -> None:
    with Celery("x", set_as_current=False) as app:
        install(app)

        options: dict[str, Any] = {"again": Retry(max=7), "once": Idempotent(), "rate": RateLimit("1/s")}

        @app.pattern_task(name="sorted", shared=False, ignore_result=True, **options)  # type: ignore[untyped-decorator]
        def task() -> None:
            """Do nothing."""

        app.finalize()
        found = app.tasks["sorted"]
        assert [policy.name for policy in found.plan.policies] == ["idempotent", "rate", "retry"]
        assert (found.max_retries, found.ignore_result) == (7, True)
        assert task() is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("24h", 86_400), (timedelta(days=2), 172_800), (3, 3)],
)
def test_durations(text: Any, seconds: float) -> None:
    assert duration("x", text) == seconds


@pytest.mark.parametrize(("text", "count"), [("64KB", 64_000), ("1KiB", 1024), ("2 MB", 2_000_000), (17, 17)])
def test_sizes(text: Any, count: int) -> None:
    assert size("x", text) == count


SEPARATORS = st.text("-:%|2aé ", min_size=1, max_size=2)
VALUES = st.text("-:%|2a3é ", max_size=4)


@given(SEPARATORS, st.tuples(VALUES, VALUES), st.tuples(VALUES, VALUES))
@example("-", ("1-2", "3"), ("1", "2-3"))
@example(":", ("x:y", "z"), ("x", "y:z"))
@example("2", ("", "2%32"), ("2", "%32"))
def test_two_calls_have_one_key_only_if_their_values_are_equal(
    separator: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    """Whatever stands between the fields of the template, and in the values."""
    template = "api:{a}" + separator + "{b}"
    rendered = [render(template, dict(zip("ab", values, strict=True))) for values in (one, other)]
    assert (rendered[0] == rendered[1]) == (one == other)


def test_keys_are_readable_and_those_that_cannot_be_read_are_refused() -> None:
    assert render("api:{a}-{b}", {"a": "shop", "b": "p-1"}) == "api:shop-p%2D1"
    assert render("{a[id]}", {"a": {"id": 5}}) == "5"
    assert render(None, {"a": 1, "b": 2}) == render(None, {"b": 2, "a": 1})
    with pytest.raises(KeyUnreadable, match="cannot be read from the arguments"):
        render("{a[id]}", {"a": {}})


def test_arguments_are_known_by_name_however_they_were_passed() -> None:
    with Celery("x", set_as_current=False) as app:

        @app.task(base=PatternTask, bind=True, name="named", shared=False)  # type: ignore[untyped-decorator]
        def task(self: Any, a: int, b: int = 2, **rest: int) -> None:
            """Do nothing."""

        app.finalize()
        named = bind_arguments(app.tasks["named"], (1,), {"c": 3})
        assert named == {"a": 1, "b": 2, "c": 3}
        with pytest.raises(TypeError, match="missing a required argument: 'a'"):
            bind_arguments(app.tasks["named"], (), {})


def test_retry_pauses_double_up_to_the_cap_and_heed_the_error() -> None:
    retry = Retry(base="1s", cap="10s", jitter="none")
    assert [retry.pause(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert retry.pause(1, 42) == 42
    assert all(42 <= Retry(base="1s").pause(1, 42) <= 42 * 1.2 for _ in range(50))
    assert all(5 <= Retry(base="10s", cap="10s", jitter="equal").pause(1) <= 10 for _ in range(50))
    assert Retry(base="10s", cap="10s").pause(10_000) <= 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix": "a b"}, "prefix: expected 1 to 100 characters without spaces and braces, got 'a b'"),
        ({"prefix": "{x}"}, "prefix: expected 1 to 100 characters"),
        ({"lease_seconds": 0}, "lease_seconds: expected a number from 0.3 to 3600, got 0"),
        ({"url": "localhost"}, "store URL: expected scheme://..., got a str without one"),
    ],
)
def test_wrong_settings_of_the_store_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        StoreSettings(**settings)


def test_the_environment_wins_over_the_application() -> None:
    conf = {"patterns_store_url": "redis://a/1", "patterns_prefix": "p"}
    assert StoreSettings.of(conf, {"CELERY_PATTERNS_STORE_URL": "redis://b/2"}) == StoreSettings("redis://b/2", "p")
    with pytest.raises(ValueError, match="CELERY_PATTERNS_LEASE_SECONDS: expected a number of seconds, got 'long'"):
        StoreSettings.of(conf, {"CELERY_PATTERNS_LEASE_SECONDS": "long"})


@pytest.mark.parametrize(
    ("conf", "environment", "lease"),
    [
        ({}, {}, 30),
        ({}, {"CELERY_AGENT_LEASE_SECONDS": "10"}, 10),
        ({}, {"CELERY_AGENT_LEASE_SECONDS": "600"}, 30),
        ({}, {"CELERY_AGENT_LEASE_SECONDS": "soon"}, 30),
        ({"patterns_lease_seconds": 20}, {"CELERY_AGENT_LEASE_SECONDS": "10"}, 20),
        ({}, {"CELERY_PATTERNS_LEASE_SECONDS": "45", "CELERY_AGENT_LEASE_SECONDS": "10"}, 45),
    ],
)
def test_what_a_dead_worker_held_is_free_when_its_messages_are_back(
    conf: dict[str, Any], environment: dict[str, str], lease: float
) -> None:
    assert StoreSettings.of(conf, environment).lease_seconds == lease


def test_without_any_redis_the_store_says_what_to_set() -> None:
    with (
        Celery("x", broker="amqp://guest@localhost//", set_as_current=False) as app,
        pytest.raises(StoreNotConfigured, match="set CELERY_PATTERNS_STORE_URL"),
    ):
        Store(app, StoreSettings()).client  # noqa: B018 - the property connects
