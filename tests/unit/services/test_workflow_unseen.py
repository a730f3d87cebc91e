"""When a published task that nobody has begun counts as gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from celery_operator.domain.workflows.lookups import Outstanding
from celery_operator.services.workflows.unseen import UNSEEN_AFTER, Unseen

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + UNSEEN_AFTER


def task(name: str) -> Outstanding:
    return Outstanding(step="s", index=0, attempt=1, task_id=name, running=False, lost_after=60)


ONE, OTHER = task("one"), task("other")
QUEUES = {"one": "q", "other": "q"}


def test_a_task_is_gone_if_its_queue_was_empty_twice_far_enough_apart() -> None:
    unseen = Unseen()
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=NOW) == []
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER - timedelta(seconds=1)) == []
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == [ONE]


def test_what_was_published_again_has_its_time_again() -> None:
    unseen = Unseen()
    unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=NOW)
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == [ONE]
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == []


def test_a_queue_with_messages_may_hold_it() -> None:
    unseen = Unseen()
    unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=NOW)
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 3}, now=LATER) == []
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == []


def test_slices_are_remembered_apart() -> None:
    """A sweep shows 500 tasks at a time; those of the slice before are not forgotten meanwhile."""
    unseen = Unseen()
    unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=NOW)
    unseen.gone([OTHER], queues=QUEUES, waiting={"q": 0}, now=NOW)
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == [ONE]
    assert unseen.gone([OTHER], queues=QUEUES, waiting={"q": 0}, now=LATER) == [OTHER]


def test_nothing_missing_forgets_all() -> None:
    unseen = Unseen()
    unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=NOW)
    unseen.clear()
    assert unseen.gone([ONE], queues=QUEUES, waiting={"q": 0}, now=LATER) == []
