"""The preStop hook knows a worker that is only starting, which would miss SIGTERM, from one that is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celery_patterns.agent import __main__ as hook


def proc(folder: Path, *, uptime: float, began: float) -> Path:
    """Write what the kernel tells of process 1: times in ticks since the machine started, as in man 5 proc."""
    ticks = int(began * os.sysconf("SC_CLK_TCK"))
    (folder / "1").mkdir()
    (folder / "1" / "stat").write_text(f"1 (celery (a) b) S {' '.join(['0'] * 18)} {ticks} 1 2 3\n")
    (folder / "uptime").write_text(f"{uptime} 123.4\n")
    return folder


@pytest.mark.parametrize(
    ("age", "starting"),
    [(0.5, True), (hook.START_SECONDS - 1, True), (hook.START_SECONDS + 1, False)],
    ids=["young", "almost", "old"],
)
def test_a_container_is_starting_for_as_long_as_its_startup_probe_allows(
    tmp_path: Path,
    age: float,
    starting: bool,  # noqa: FBT001 - a table
) -> None:
    assert hook._is_starting(proc(tmp_path, uptime=5000.0 + age, began=5000.0)) is starting


def test_where_the_kernel_tells_nothing_nobody_is_waited_for(tmp_path: Path) -> None:
    assert not hook._is_starting(tmp_path)
    (proc(tmp_path, uptime=9, began=8) / "1" / "stat").write_text("1 (celery) S\n")
    assert not hook._is_starting(tmp_path)


def test_this_machines_own_first_process_can_be_read() -> None:
    fields = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    assert 0 <= int(fields[19]) / os.sysconf("SC_CLK_TCK") <= float(Path("/proc/uptime").read_text().split()[0])


@pytest.mark.parametrize("starting", [True, False])
def test_a_worker_that_is_starting_is_drained_when_it_answers_and_one_that_is_gone_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
    starting: bool,  # noqa: FBT001 - a table
) -> None:
    asked: list[str] = []

    def request(method: str, path: str) -> dict[str, object]:
        asked.append(method)
        if len(asked) <= 3 * hook.TRIES_BEFORE_GONE:
            raise ConnectionRefusedError(path)
        return {"drained": len(asked) > 3 * hook.TRIES_BEFORE_GONE + 1}

    monkeypatch.setattr(hook, "_request", request)
    monkeypatch.setattr(hook, "_is_starting", lambda: starting)
    monkeypatch.setattr(hook, "POLL_SECONDS", 0.0)
    said = hook._drain(30.0)
    if starting:
        assert said.startswith("drained after ")
        assert asked[-2:] == ["POST", "GET"]
    else:
        assert said.startswith("not drained: no answer")
        assert len(asked) == hook.TRIES_BEFORE_GONE
