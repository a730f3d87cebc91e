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


def look(
    unseen: Unseen, *tasks: Outstanding, now: datetime, waiting: int = 0, guarded: bool = True
) -> list[Outstanding]:
    """Make one round in which these tasks are not begun."""
    unseen.begin_round()
    return unseen.gone(tasks, queues=QUEUES, waiting={"q": waiting}, now=now, guarded={"q"} if guarded else set())


def test_where_no_worker_tells_what_it_begins_a_task_is_gone_after_its_own_time_and_stays_so() -> None:
    """A worker without the agent may run it: it is not published again, only told of, for as long as that lasts."""
    unseen = Unseen()
    late = NOW + timedelta(seconds=ONE.lost_after)
    assert look(unseen, ONE, now=NOW, guarded=False) == []
    assert look(unseen, ONE, now=LATER, guarded=False) == []
    assert look(unseen, ONE, now=late, guarded=False) == [ONE]
    assert look(unseen, ONE, now=late, guarded=False) == [ONE]


def test_a_task_is_gone_if_its_queue_was_empty_twice_far_enough_apart() -> None:
    unseen = Unseen()
    assert look(unseen, ONE, now=NOW) == []
    assert look(unseen, ONE, now=LATER - timedelta(seconds=1)) == []
    assert look(unseen, ONE, now=LATER) == [ONE]


def test_what_was_published_again_has_its_time_again() -> None:
    unseen = Unseen()
    look(unseen, ONE, now=NOW)
    assert look(unseen, ONE, now=LATER) == [ONE]
    assert look(unseen, ONE, now=LATER) == []


def test_a_queue_with_messages_may_hold_it() -> None:
    unseen = Unseen()
    look(unseen, ONE, now=NOW)
    assert look(unseen, ONE, now=LATER, waiting=3) == []
    assert look(unseen, ONE, now=LATER) == []


def test_slices_of_a_round_are_remembered_together() -> None:
    """A sweep shows 500 tasks at a time; those of the slice before are not forgotten meanwhile."""
    unseen = Unseen()
    for now, expected in ((NOW, []), (LATER, [ONE, OTHER])):
        found = look(unseen, ONE, now=now) + unseen.gone(
            [OTHER], queues=QUEUES, waiting={"q": 0}, now=now, guarded={"q"}
        )
        assert found == expected


def test_what_a_round_does_not_show_is_forgotten() -> None:
    unseen = Unseen()
    look(unseen, ONE, now=NOW)
    look(unseen, now=NOW)
    assert look(unseen, ONE, now=LATER) == []


def test_what_could_not_be_found_out_changes_nothing() -> None:
    unseen = Unseen()
    look(unseen, ONE, now=NOW)
    unseen.begin_round()
    unseen.keep([ONE, OTHER])
    assert look(unseen, ONE, OTHER, now=LATER) == [ONE]
