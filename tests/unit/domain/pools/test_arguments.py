"""The worker's command line says what the spec says, and extraArgs cannot say it again."""

from __future__ import annotations

import pytest
from celery.bin.worker import worker as celery_worker

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.arguments import refuse_owned, slots_per_worker, worker_arguments
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from fakes.pools import pool_spec

REDIS = ResolvedApp(ResolvedEndpoint("redis://redis/0"), None, "shop:app")
RABBITMQ = ResolvedApp(ResolvedEndpoint("amqp://rabbitmq//"), None, "shop:app")


def test_the_defaults_name_everything_that_matters() -> None:
    assert worker_arguments(pool_spec(), REDIS, "etl") == [
        *("-A", "shop:app", "worker", "--queues", "celery", "--concurrency", "1", "--pool", "prefork"),
        *("--hostname", "etl@%h", "--prefetch-multiplier", "1", "--disable-prefetch"),
        *("--include", "celery_patterns.agent.autoload", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]


def test_typed_fields_become_options_and_extra_arguments_come_last() -> None:
    spec = pool_spec(
        queues=[{"name": "a"}, {"name": "b$(X)"}],
        worker={
            "concurrency": 4,
            "pool": "threads",
            "prefetchMultiplier": 0,
            "maxTasksPerChild": 9,
            "agent": "None",
            "extraArgs": ["-E", "--loglevel", "DEBUG"],
        },
    )
    assert worker_arguments(spec, RABBITMQ, "etl") == [
        *("-A", "shop:app", "worker", "--queues", "a,b$$(X)", "--concurrency", "4", "--pool", "threads"),
        *("--hostname", "etl@%h", "--prefetch-multiplier", "16383", "--max-tasks-per-child", "9"),
        *("--without-gossip", "--without-mingle", "--loglevel", "INFO", "-E", "--loglevel", "DEBUG"),
    ]


def test_celery_itself_knows_every_option_that_is_used() -> None:
    known = {option for parameter in celery_worker.params for option in parameter.opts}
    spec = pool_spec(worker={"maxTasksPerChild": 1})
    used = {each for each in worker_arguments(spec, REDIS, "etl")[3:] if each.startswith("--")}
    assert used <= known


@pytest.mark.parametrize(
    "arguments",
    [
        ["--concurrency", "3"],
        ["--concurrency=3"],
        ["-c3"],
        ["-Ec", "3"],
        ["-E", "-B"],
        ["-EB"],
        ["-Q", "other"],
        ["--autoscale=3,1"],
        ["--purge"],
        ["-I", "module"],
        ["-n", "name"],
        ["worker.concurrency=3"],
        ["broker_url=redis://elsewhere"],
    ],
)
def test_what_is_owned_is_refused_with_its_place(arguments: list[str]) -> None:
    with pytest.raises(SpecError, match=r"^spec\.worker\.extraArgs\[\d\]: ") as caught:
        refuse_owned(arguments)
    assert caught.value.reason is Reason.CONFLICTING_ARGUMENTS


def test_a_refusal_never_repeats_a_value() -> None:
    with pytest.raises(SpecError) as caught:
        refuse_owned(["--broker=redis://:secret@host"])
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "arguments", [["-l", "DEBUG"], ["-lINFO"], ["-O", "fair"], ["--time-limit=3"], ["-E"], ["x=y"]]
)
def test_everything_else_is_the_users(arguments: list[str]) -> None:
    assert worker_arguments(pool_spec(worker={"extraArgs": arguments}), REDIS, "etl")[-len(arguments) :] == arguments


def test_a_solo_worker_has_one_slot_whatever_its_concurrency() -> None:
    assert slots_per_worker(pool_spec(worker={"pool": "solo", "concurrency": 8}).worker) == 1
    assert slots_per_worker(pool_spec(worker={"concurrency": 8}).worker) == 8
