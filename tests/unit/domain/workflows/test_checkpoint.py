"""A state that went through a ConfigMap goes on as before; what is damaged is refused."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.domain.workflows import bits
from celery_operator.domain.workflows.state import (
    CODES,
    Cause,
    Code,
    Due,
    Failure,
    RunState,
    StepState,
    from_checkpoint,
    initial_state,
    to_checkpoint,
)
from unit.domain.workflows.simulation import NOW, graph_of

MAP = {"map": {"items": {"range": {"end": 100}}, "task": {"name": "f"}}}
DYNAMIC = {"map": {"items": {"resultOf": {"step": "s0", "path": "$[0].x"}}, "task": {"name": "f"}}}
GRAPH = graph_of(chain=[MAP, DYNAMIC, {"task": {"name": "g"}}])
AGES = st.integers(0, 10**9).map(lambda ms: NOW + timedelta(milliseconds=ms))


def step_state(items: bytes, **fields: Any) -> StepState:
    return StepState(items=items, counts=tuple(items.count(code) for code in range(CODES)), **fields)


@st.composite
def steps(draw: st.DrawFn, length: int) -> StepState:
    """Draw a step that has begun, without the code RUNNING, which a checkpoint does not keep."""
    codes = st.sampled_from([code for code in Code if code != Code.RUNNING])
    items = bytearray(draw(st.lists(codes, min_size=length, max_size=length)))
    waiting = [index for index, code in enumerate(items) if code == Code.WAITING]
    attempts = {index: draw(st.integers(2, 101)) for index in waiting}
    attempts |= draw(st.dictionaries(st.integers(0, length - 1), st.integers(2, 101), max_size=3))
    due = sorted(Due(draw(AGES), index, attempts[index]) for index in waiting)
    return step_state(
        bytes(items),
        phase=draw(st.sampled_from(["Running", "Succeeded", "Failed", "Revoked"])),
        attempts=attempts,
        due=tuple(due),
        started=draw(AGES),
        ended=draw(st.none() | AGES),
        lost=draw(st.integers(0, 5)),
        size=draw(st.integers(0, 10**9)),
        cause=draw(st.none() | st.builds(Cause, st.integers(0, 9), st.integers(1, 9), st.text(), st.text())),
        error=draw(st.none() | st.text()),
    )


TEXT = st.text(st.characters(codec="utf-8"))
FAILURES = st.lists(st.builds(Failure, TEXT, st.integers(0), st.integers(1), TEXT, TEXT, TEXT, AGES), max_size=3)


@given(wide=steps(100), single=steps(1), failures=FAILURES, missed=st.booleans(), run=st.integers(1, 9))
def test_everything_that_is_kept_comes_back(
    *, wide: StepState, single: StepState, failures: list[Failure], missed: bool, run: int
) -> None:
    unknown = StepState(phase="Running", started=NOW)
    state = RunState(run, NOW, {"s0": wide, "s1": unknown, "s2": single}, tuple(failures), deadline_exceeded=missed)
    data = to_checkpoint(state)
    assert all(isinstance(value, str) for value in data.values())
    again = from_checkpoint(GRAPH, json.loads(json.dumps(data)))
    assert again == dataclasses.replace(state, steps={**state.steps, "s0": as_heap(wide, again.steps["s0"])})


def as_heap(state: StepState, other: StepState) -> StepState:
    assert sorted(state.due) == sorted(other.due)
    return dataclasses.replace(state, due=other.due)


def test_what_has_begun_comes_back_as_published_and_memory_stays_behind() -> None:
    items = bytes((Code.RUNNING, Code.PUBLISHED)) * 50
    state = RunState(
        1,
        NOW,
        {**initial_state(GRAPH, now=NOW).steps, "s0": step_state(items, phase="Running", started=NOW)},
        values={"s2": 1},
        lists={"s1": [1]},
        unreadable={"s2": "gone"},
    )
    published = step_state(bytes((Code.PUBLISHED,)) * 100, phase="Running", started=NOW)
    assert from_checkpoint(GRAPH, to_checkpoint(state)) == RunState(1, NOW, {**state.steps, "s0": published})


def test_a_fresh_state_is_a_few_bytes() -> None:
    state = initial_state(GRAPH, now=NOW)
    data = to_checkpoint(state)
    started = "2026-11-22T12:00:00+00:00"
    assert data == {
        "run.json": f'{{"v":1,"run":1,"started":"{started}","deadlineExceeded":false,"failures":[],"steps":{{}}}}'
    }
    assert from_checkpoint(GRAPH, data) == state


def hundred_thousand(**fields: Any) -> RunState:
    luck = random.Random(1)
    items = bytes(luck.choices([Code.PENDING, Code.PUBLISHED, Code.SUCCEEDED, Code.FAILED], k=100_000))
    return RunState(1, NOW, {"s0": step_state(items, phase="Running", **fields)})


LARGE = graph_of(group=[{"map": {"items": {"range": {"end": 100_000}}, "task": {"name": "f"}}}])


def test_the_bits_of_100000_items_in_any_order_take_34_kb() -> None:
    state = hundred_thousand()
    data = to_checkpoint(state)
    assert len(data["items.s0"]) <= 34_000
    assert from_checkpoint(LARGE, data) == state


def test_very_many_waiting_retries_come_back_at_the_latest_due_time_rather_than_too_early() -> None:
    count = 20_000
    due = tuple(Due(NOW + timedelta(seconds=index), index, 2) for index in range(count))
    waiting = step_state(
        bytes((Code.WAITING,)) * count, phase="Running", attempts=dict.fromkeys(range(count), 2), due=due
    )
    graph = graph_of(group=[{"map": {"items": {"range": {"end": count}}, "task": {"name": "f"}}}])
    data = to_checkpoint(RunState(1, NOW, {"s0": waiting}))
    assert sum(map(len, data.values())) < 150_000
    again = from_checkpoint(graph, data).steps["s0"]
    assert again.items == waiting.items
    assert sorted(again.due)[:5000] == list(due[:5000])
    assert {each.at for each in sorted(again.due)[5000:]} == {due[-1].at}
    assert len(again.due) == count


def run_json(**changes: Any) -> Callable[[dict[str, str]], None]:
    def change(data: dict[str, str]) -> None:
        data["run.json"] = json.dumps({**json.loads(data["run.json"]), **changes})

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data.clear(), "the checkpoint is damaged: KeyError('run.json')"),
        (lambda data: data.update({"run.json": "{"}), "Expecting property name enclosed in double quotes"),
        (run_json(v=2), "this operator reads checkpoints of version 1, not 2"),
        (run_json(steps={"zzz": {}}), "the checkpoint has a step 'zzz' that the graph does not have"),
        (lambda data: data.pop("items.s0"), "the states of 100000 items are missing"),
        (lambda data: data.update({"items.s0": "%"}), "the packed states cannot be read"),
        (lambda data: data.update({"items.s0": bits.to_text(b"x")}), "expected 25000 bytes of packed states, found 1"),
        (
            lambda data: data.update({"items.s0": bits.to_text(b"x" * 10**7)}),
            "expected 25000 bytes of packed states, found 25001+",
        ),
        (run_json(steps={"s0": {"p": "Running", "n": 2, "c": "09"}}), "expected 2 item codes, found '09'"),
    ],
)
def test_damage_is_named(damage: Callable[[dict[str, str]], None], problem: str) -> None:
    data = to_checkpoint(hundred_thousand())
    damage(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message follows
        from_checkpoint(LARGE, data)
    assert str(caught.value).startswith(problem)


@given(st.lists(st.integers(0, 3)).map(bytes))
def test_packing_is_exact(codes: bytes) -> None:
    packed = bits.pack(codes)
    assert len(packed) == -(-len(codes) // 4)
    assert bits.unpack(packed, len(codes)) == codes
    assert bits.from_text(bits.to_text(packed), len(packed)) == packed
