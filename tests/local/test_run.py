"""Whole runs on this machine, with real workers and a real Redis: every example, and every way a run can end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from celery_operator.cli.examples import examples, find_example
from celery_operator.cli.exit_codes import ExitCode
from local.support import gone, until

COMMAND = [sys.executable, "-c", "from celery_operator.cli.app import main; main()"]
MARK = "LOCAL_RUN_MARK"
"""A variable that everything started by a run inherits: by it leftovers are found."""
SECONDS = 50.0

SLEEPING = """
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryApp
metadata: {name: a}
spec: {connection: {broker: {url: "redis://redis/0"}, resultBackend: {url: "redis://redis/1"}}}
---
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryWorkerPool
metadata: {name: p}
spec: {appRef: {name: a}, replicas: 1, worker: {concurrency: 2}}
---
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryWorkflow
metadata: {name: w}
spec:
  appRef: {name: a}
  chain: [{task: {name: examples.sleep, args: [{value: 300}]}}]
"""


@dataclass
class Command:
    """A running ``celery-operator``."""

    process: asyncio.subprocess.Process
    mark: str
    output: list[str] = field(default_factory=list)

    def started(self) -> list[int]:
        """Return the processes that live because of it, itself excluded."""
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != self.process.pid and _has(entry, f"{MARK}={self.mark}")
        ]
        return [pid for pid in found if not gone(pid)]

    def workers(self) -> list[int]:
        """Return those of them that are Celery's."""
        return [pid for pid in self.started() if b"celery\0" in _read(Path(f"/proc/{pid}/cmdline"))]

    async def line_with(self, text: str) -> str:
        """Read its output up to a line that holds the text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self.process.stdout.readline()).decode():
                self.output.append(line)
                if text in line:
                    return line
        raise AssertionError(f"no line with {text!r} in {''.join(self.output)}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _has(entry: Path, variable: str) -> bool:
    return variable.encode() in _read(entry / "environ").split(b"\0")


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Command]:
    mark = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, MARK: mark, "COLUMNS": "200"},
    )
    command = Command(process, mark)
    try:
        yield command
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await until(lambda: not command.started(), what=f"left behind: {command.started()}")


async def run(*arguments: str) -> tuple[int, str]:
    """Run to the end; return exit status and output. Fails if a process is left behind."""
    async with running(*arguments) as command:
        async with asyncio.timeout(SECONDS):
            output, _ = await command.process.communicate()
        status = command.process.returncode
        assert command.started() == []
    assert status is not None
    return status, output.decode()


async def results(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run with --json; return the exit status and the workflows by name."""
    status, output = await run(*arguments, "--json")
    body, _ = json.JSONDecoder().raw_decode(output, output.index("\n{") + 1)
    return status, {workflow["name"]: workflow for workflow in body["workflows"]}


def changed(tmp_path: Path, example: str, *replacements: tuple[str, str]) -> str:
    """Write an example with replacements to a file; return its path."""
    text = find_example(example).read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "changed.yaml"
    file.write_text(text)
    return str(file)


def wrote(tmp_path: Path, text: str) -> str:
    file = tmp_path / "written.yaml"
    file.write_text(text)
    return str(file)


OUTPUTS: dict[str, dict[str, dict[str, Any]]] = {
    "add": {"add": {"sum": 8}},
    "chain-group-chord": {
        "chain": {"result": 40.0},
        "group": {"results": [2, 4, 42]},
        "chord": {"sumOfSquares": 285},
    },
    "dag": {"invoice": {"net": 160, "tax": 40.0, "gross": 200.0}},
}


@pytest.mark.parametrize("example", OUTPUTS)
async def test_an_example_ends_with_the_right_results(example: str) -> None:
    status, workflows = await results("run", str(find_example(example)))
    assert {name: workflow["outputs"] for name, workflow in workflows.items()} == OUTPUTS[example]
    assert status == ExitCode.SUCCESS


async def test_the_word_count_counts_every_module_while_its_pool_goes_from_zero_to_zero() -> None:
    from celery_patterns.examples.words import count, list_modules, merge, top

    truth = top(merge([count(module) for module in list_modules()]), letters=6)
    status, output = await run("run", str(find_example("word-count")), "--plain", "--until-idle")
    assert status == ExitCode.SUCCESS, output
    shown = [line.split()[:2] for line in output[output.index("word-count succeeded") :].splitlines()[2:12]]
    assert shown == [[word, f"{number:,}"] for word, number in truth]
    course = [int(part) for part in output.rpartition("workers of words  ")[2].split("→")]
    assert (course[0], course[-1]) == (0, 0)
    assert max(course) >= 1


async def test_the_example_of_failures_shows_which_are_tolerated() -> None:
    status, workflows = await results("run", str(find_example("failure")))
    assert status == ExitCode.FAILED
    ends = {name: (each["succeeded"], each["reason"], each["outputs"]) for name, each in workflows.items()}
    assert ends == {
        "tolerant": (True, "CompletedWithFailures", {"total": 13}),
        "strict": (False, "TaskFailed", {}),
    }
    attempts = [(each["step"], each["attempt"], each["message"]) for each in workflows["strict"]["failures"]]
    assert sorted(attempts) == [
        ("second", 1, "this was bound to happen"),
        ("second", 2, "this was bound to happen"),
    ]


def test_every_example_is_run_by_a_test_of_this_file() -> None:
    assert set(examples()) == {*OUTPUTS, "word-count", "failure"}


async def test_urls_may_come_from_a_secret_of_the_same_files(tmp_path: Path) -> None:
    secret = 'apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {b: "redis://redis/0", r: "redis://redis/1"}\n---\n'
    file = changed(
        tmp_path,
        "add",
        ("url: redis://celery-redis:6379/0", "urlFrom: {secretKeyRef: {name: s, key: b}}"),
        ("url: redis://celery-redis:6379/1", "urlFrom: {secretKeyRef: {name: s, key: r}}"),
    )
    status, workflows = await results("run", wrote(tmp_path, secret), file)
    assert (status, workflows["add"]["outputs"]) == (ExitCode.SUCCESS, {"sum": 8})


async def test_an_unknown_task_and_a_result_that_is_not_json_fail_their_workflows(tmp_path: Path) -> None:
    chain = "chain: [{task: {name: TASK}}]\n"
    head = SLEEPING.partition("  chain:")[0]
    workflow = head.rpartition("---")[2].replace("name: w", "name: other")
    both = f"{head}  {chain}---{workflow}  {chain}".replace("TASK", "no.task", 1).replace("TASK", "examples.not_json")
    status, workflows = await results("run", wrote(tmp_path, both))
    assert status == ExitCode.FAILED
    assert {name: each["reason"] for name, each in workflows.items()} == {"w": "TaskFailed", "other": "TaskFailed"}
    assert "no.task" in workflows["w"]["message"]
    assert "not JSON serializable" in workflows["other"]["message"]


async def test_an_application_that_cannot_be_imported_ends_the_run_with_the_workers_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    file = changed(tmp_path, "add", ("celery_patterns.examples.app:app", "no_such_module:app"))
    status, output = await run("run", file, "--plain", "--logs", str(logs))
    assert status == ExitCode.UNFINISHED
    assert "error: CeleryWorkerPool tutorial: its workers end as soon as they start" in output
    assert "No module named 'no_such_module'" in output
    assert "No module named 'no_such_module'" in next((logs / "logs").iterdir()).read_text()


async def test_a_broker_that_refuses_ends_the_run_after_the_time_that_was_given(tmp_path: Path) -> None:
    file = changed(tmp_path, "add", ("redis://celery-redis:6379", "redis://localhost:1"))
    status, output = await run("run", file, "--plain", "--give-up-after", "1")
    assert status == ExitCode.UNFINISHED
    assert "error: CeleryWorkflow add: StoreUnreachable" in output
    assert "localhost:1" in output


async def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    status, output = await run("run", wrote(tmp_path, SLEEPING), "--plain", "--timeout", "2")
    assert status == ExitCode.UNFINISHED
    assert "error: not finished within 2 s" in output


async def test_scripts_are_told_how_far_what_has_not_ended_came(tmp_path: Path) -> None:
    status, workflows = await results("run", wrote(tmp_path, SLEEPING), "--timeout", "2")
    assert status == ExitCode.UNFINISHED
    (workflow,) = workflows.values()
    assert (workflow["ended"], workflow["succeeded"], workflow["progress"]) == (False, False, "0/1")


async def test_a_terminal_that_is_closed_ends_the_run_as_ctrl_c_does(tmp_path: Path) -> None:
    async with running("run", wrote(tmp_path, SLEEPING), "--plain") as command:
        await command.line_with("1 of 2 slots busy")
        command.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            assert await command.process.wait() == ExitCode.INTERRUPTED
        assert command.started() == []


async def test_a_host_can_be_mapped_to_a_server_that_runs() -> None:
    from servers import redis_server

    with redis_server() as redis:
        mapping = f"celery-redis=127.0.0.1:{redis.port}"
        status, workflows = await results("run", str(find_example("add")), "--map-host", mapping)
        assert (status, workflows["add"]["outputs"]) == (ExitCode.SUCCESS, {"sum": 8})
        with redis.client(1) as client:
            assert client.keys("celery-task-meta-*") != []


async def test_ctrl_c_ends_the_run_and_the_second_one_kills_what_is_busy(tmp_path: Path) -> None:
    async with running("run", wrote(tmp_path, SLEEPING), "--plain") as command:
        await command.line_with("1 of 2 slots busy")
        command.process.send_signal(signal.SIGINT)
        await command.line_with("Ctrl-C again kills")
        assert command.workers() != []
        command.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            assert await command.process.wait() == ExitCode.INTERRUPTED
        assert command.started() == []


async def test_workers_recover_as_the_application_says(tmp_path: Path) -> None:
    recovery = "spec: {recovery: {leaseSeconds: 20, maxDeliveries: 3}, connection:"
    text = SLEEPING.replace("spec: {connection:", recovery)
    async with running("run", wrote(tmp_path, text), "--plain") as command:
        await command.line_with("1 of 2 slots busy")
        for variable in ("CELERY_AGENT_LEASE_SECONDS=20", "CELERY_PATTERNS_MAX_DELIVERIES=3"):
            assert all(_has(Path(f"/proc/{pid}"), variable) for pid in command.workers())
        assert command.workers() != []


async def test_sigkill_leaves_no_worker_and_no_redis(tmp_path: Path) -> None:
    async with running("run", wrote(tmp_path, SLEEPING), "--plain") as command:
        await command.line_with("1 of 2 slots busy")
        assert len(command.workers()) >= 2  # the worker and its children
        command.process.kill()
        await command.process.wait()
        await until(lambda: not command.started(), within=5)
