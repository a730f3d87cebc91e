"""What is published once more goes on where Celery's own retries had come to."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from celery_operator.domain.messages import Resumption
from celery_operator.domain.workflows.again import publish_again
from celery_operator.domain.workflows.lookups import outstanding
from celery_operator.domain.workflows.state import RunState, from_checkpoint, to_checkpoint
from unit.domain.workflows.shorthand import NO_JITTER, begin, mapped, message, t
from unit.domain.workflows.simulation import NOW, UID, step, told

AT = Resumption(3, queue="slow", tries={"attempt": 2, "deferrals": 2})
RETRY = {"limit": 1, "backoff": {"initialSeconds": 0}}


def test_it_carries_celerys_count_its_queue_and_the_tries_that_were_counted() -> None:
    graph, state = begin(chain=[t("a")])
    sent = step(graph, state)
    (task,) = outstanding(graph, sent.state, uid=UID)
    again = publish_again(graph, sent.state, [dataclasses.replace(task, resumption=AT)], uid=UID)
    plan = step(graph, again)
    assert plan.publish == (dataclasses.replace(message("s0", "a"), retries=3, queue="slow", tries=AT.tries),)
    assert plan.state == sent.state, "what was published is not remembered any longer"
    (task,) = outstanding(graph, plan.state, uid=UID)
    assert step(graph, publish_again(graph, plan.state, [task], uid=UID)).publish == (message("s0", "a"),)


def test_only_the_items_that_were_retried_go_on_there() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 3}})])
    sent = step(graph, state)
    tasks = list(outstanding(graph, sent.state, uid=UID))
    tasks[1] = dataclasses.replace(tasks[1], resumption=Resumption(1))
    plan = step(graph, publish_again(graph, sent.state, tasks, uid=UID))
    assert [each.retries for each in plan.publish] == [0, 1, 0]


def test_the_next_attempt_begins_at_its_beginning() -> None:
    """The retry turned up after all, before it was published again, and failed."""
    graph, state = begin(chain=[t("a", retry=RETRY)])
    sent = step(graph, state)
    (task,) = outstanding(graph, sent.state, uid=UID)
    again = publish_again(graph, sent.state, [dataclasses.replace(task, resumption=AT)], uid=UID)
    plan = step(graph, again, told(sent.publish[0], "failed"))
    assert plan.publish == (message("s0", "a", attempt=2),)


def test_an_attempt_that_waits_for_its_backoff_begins_at_its_beginning() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 1, "backoff": NO_JITTER})])
    sent = step(graph, state)
    (task,) = outstanding(graph, sent.state, uid=UID)
    again = publish_again(graph, sent.state, [dataclasses.replace(task, resumption=AT)], uid=UID)
    waits = step(graph, again, told(sent.publish[0], "failed"))
    plan = step(graph, waits.state, now=NOW + timedelta(hours=1))
    assert plan.publish == (message("s0", "a", attempt=2),)


def test_a_checkpoint_leaves_it_to_the_claims() -> None:
    """It does not grow with what waits; whoever takes over looks at the claims before it publishes anything."""
    graph, state = begin(chain=[t("a")])
    sent = step(graph, state)
    (task,) = outstanding(graph, sent.state, uid=UID)

    def kept(resumption: Resumption | None) -> RunState:
        again = publish_again(graph, sent.state, [dataclasses.replace(task, resumption=resumption)], uid=UID)
        return from_checkpoint(graph, to_checkpoint(again))

    assert kept(AT) == kept(None)
