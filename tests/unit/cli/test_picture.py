"""What a run looks like, as text."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from celery_operator.cli.picture import ASCII, PRETTY, draw_pool, draw_workflow, duration, sparkline
from celery_operator.cli.values import show_output
from celery_operator.local.gauges import PoolGauge

NOW = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)


def drawn(what: RenderableType) -> list[str]:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def workflow(*steps: dict[str, Any], **status: Any) -> dict[str, Any]:
    began = "2026-01-01T00:00:00Z"
    return {
        "kind": "CeleryWorkflow",
        "metadata": {"namespace": "default", "name": "count"},
        "status": {"phase": "Running", "progress": "3/7", "startTime": began, "steps": list(steps), **status},
    }


def test_a_running_workflow_is_a_tree_with_bars() -> None:
    steps = (
        {"name": "modules", "type": "Task", "state": "Succeeded", "attempts": 2},
        {
            "name": "count",
            "type": "Map",
            "state": "Running",
            "tasks": {"total": 4, "succeeded": 1, "failed": 1, "running": 1, "queued": 1},
        },
        {"name": "top", "type": "Task", "state": "Pending"},
    )
    assert drawn(draw_workflow(workflow(*steps), PRETTY, now=NOW, frame=0, most_steps=9)) == [
        "⠋ count  Running  3/7 tasks  10 s",
        "├─ ✔ modules ━━━━━━━━━━━━━━━━━━━━━━━━━━     1 retried",
        "├─ ⠋ count   ━━━━━━━━━━━━╸╸╸╸╸╸──────── 2/4 1 running  1 queued  1 failed",
        "└─ ○ top     ──────────────────────────",
    ]


def test_a_fan_out_over_items_that_are_not_known_yet_has_an_empty_bar() -> None:
    step = {"name": "a", "type": "Map", "state": "Running"}
    assert drawn(draw_workflow(workflow(step), ASCII, now=NOW, frame=0, most_steps=9))[1] == "`- | a " + "-" * 26


def test_a_terminal_without_unicode_gets_plain_signs() -> None:
    step = {"name": "a", "type": "Task", "state": "Running"}
    assert drawn(draw_workflow(workflow(step), ASCII, now=NOW, frame=0, most_steps=9)) == [
        "| count  Running  3/7 tasks  10 s",
        "`- | a >>>>>>>>>>>>>>>>>>>>>>>>>>",
    ]


def test_what_runs_is_shown_where_not_all_steps_fit() -> None:
    steps = [{"name": f"s{i}", "type": "Task", "state": "Running" if i == 7 else "Pending"} for i in range(10)]
    lines = drawn(draw_workflow(workflow(*steps), ASCII, now=NOW, frame=0, most_steps=3))
    assert [line.split()[2] for line in lines[1:]] == ["s0", "s7", "8"]


def test_a_workflow_that_failed_says_so() -> None:
    failed = {"type": "Succeeded", "status": "False", "reason": "TaskFailed", "message": "m"}
    (title, *_) = drawn(draw_workflow(workflow(conditions=[failed]), PRETTY, now=NOW, frame=0, most_steps=3))
    assert title == "✘ count  Failed  3/7 tasks  10 s"


def test_trouble_stands_in_the_title() -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "NoWorkersForQueue", "message": "start a pool"}
    (title, *_) = drawn(draw_workflow(workflow(conditions=[stalled]), PRETTY, now=NOW, frame=0, most_steps=3))
    assert title.endswith("NoWorkersForQueue: start a pool")


def test_a_pool_is_a_line_with_its_workers_over_time() -> None:
    history = [PoolGauge(0, 0, waiting=5), PoolGauge(2, 0, waiting=5), PoolGauge(4, 2, busy=1, slots=2, waiting=3)]
    (line,) = drawn(draw_pool("words", history, PRETTY, most=4))
    assert line.split() == ["words", "▁▁▅", "2", "workers", "→", "4", "1/2", "busy", "3", "waiting"]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "word-count-workers ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▅ 2 workers → 4 1/2 busy  130 waiting"),
        (60, "word-count-workers 2 workers → 4 1/2 busy  130 waiting"),
        (45, "word-count-workers 2 workers → 4 1/2 busy"),
        (24, "word-count-workers"),
        (10, "word-coun…"),
    ],
    ids=["80", "60", "45", "24", "10"],
)
def test_a_pools_name_has_its_room_and_other_columns_go_first(columns: int, line: str) -> None:
    history = [*[PoolGauge(0, 0, waiting=5)] * 30, PoolGauge(4, 2, busy=1, slots=2, waiting=130)]
    (drawn_line,) = drawn(draw_pool("word-count-workers", history, PRETTY, most=4, columns=columns))
    assert drawn_line == line


def test_lines_of_several_pools_stand_under_each_other() -> None:
    lines = [drawn(draw_pool(name, [], ASCII, most=1, columns=60, name_columns=9))[0] for name in ("a", "long-name")]
    assert [line.index("0 workers") for line in lines] == [lines[1].index("0 workers")] * 2


def test_a_queue_that_cannot_be_counted_is_unknown_not_empty() -> None:
    (line,) = drawn(draw_pool("words", [PoolGauge(1, 1)], PRETTY, most=1))
    assert line.endswith("waiting unknown")


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([0, 0], "▁▁"), ([0, 1, 2, 3], "▁▃▆█"), ([0] * 9 + [3] + [0] * 10, "▁█▁▁")]
)
def test_a_long_history_is_pressed_into_the_width_and_keeps_its_peaks(values: list[int], line: str) -> None:
    assert sparkline(values, 3, PRETTY, 4).plain == line


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1:00"), (605, "10:05")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (8, ["sum = 8"]),
        (None, ["sum = null"]),
        ("word", ['sum = "word"']),
        ([2, 4, 42], ["sum = [2, 4, 42]"]),
        ([["the", 4], ["a", 2]], ["sum", "  the  4  " + "▇" * 36, "  a    2  " + "▇" * 18]),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], ["sum", "  a  b", "  1  x", "  2  y"]),
    ],
)
def test_results_are_shown_in_the_shape_that_they_have(value: Any, lines: list[str]) -> None:
    assert drawn(show_output("sum", value)) == lines


def test_a_long_list_is_cut_with_a_count() -> None:
    shown = drawn(show_output("n", [[str(i), i] for i in range(50)]))
    assert (len(shown), shown[-1]) == (42, "… 10 more")
