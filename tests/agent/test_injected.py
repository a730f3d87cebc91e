"""The agent in images that do not hold it: plain Celery 5.5 to 5.7 in environments of their own, changed in nothing."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.stage import APPS, RESULT_DB, Stage
from celery_patterns import protocol
from celery_patterns.agent.injection import inject
from servers import RedisServer, Worker, celery_worker, eventually
from stock_images import BUILD_SECONDS, oldest_python, stock_environment

pytestmark = pytest.mark.timeout(BUILD_SECONDS + 60)
"""The first run makes the environments."""

RELEASES = ("5.5.3", "5.6.3", "5.7.0")
LEASE_SECONDS = 3


@dataclass
class Injected:
    """A pod's container: the image's environment, and the volume with the agent."""

    environment: Path
    volume: Path

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    def worker(self, stage: Stage, **options: Any) -> AbstractContextManager[Worker]:
        """Start a worker as the pod does."""
        launcher = [self.python, str(self.volume / protocol.RUN_CELERY)]
        defaults: dict[str, Any] = {
            "broker": stage.broker_url,
            "backend": stage.results.url(RESULT_DB),
            "app": "stock_shop:app",
            "python_path": APPS,  # the image's own, which must survive
            "queues": stage.queue,
            "concurrency": 2,
            "arguments": ["--disable-prefetch"],  # which Celery 5.5 does not know
        }
        return celery_worker(**{**defaults, **options}, launcher=launcher)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the init container leaves behind; run twice, as after a restart of the container."""
    directory = tmp_path_factory.mktemp("injected")
    for _ in range(2):
        command = [sys.executable, "-m", "celery_patterns.agent", "inject", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == f"the agent is in {directory}\n"
    return directory


@pytest.fixture(scope="module", params=RELEASES)
def image(request: pytest.FixtureRequest, volume: Path) -> Injected:
    """The oldest and the newest release on the oldest Python that this machine has, one on the ordinary."""
    python = sys.executable if request.param == "5.6.3" else oldest_python()
    return Injected(stock_environment(f"celery[redis]=={request.param}", python=python), volume)


@pytest.fixture(scope="module")
def running(image: Injected, redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        yield stage, stack.enter_context(image.worker(stage))


@pytest.fixture
def worker(running: tuple[Stage, Worker], stack: ExitStack) -> tuple[Stage, Worker]:
    shared, worker = running
    return Stage(broker=shared.broker, results=shared.results, stack=stack, queue=shared.queue), worker


def test_every_end_of_a_task_is_counted(worker: tuple[Stage, Worker], image: Injected) -> None:
    stage, running = worker
    for index in range(5):
        stage.send_plain("shop.add", index, 1)
    stage.send_plain("shop.fail", "x")
    stage.send_plain("shop.retry")
    stage.send_plain("shop.die")
    expected = {"SUCCESS": 6, "FAILURE": 2, "RETRY": 1}
    eventually(
        lambda: running.state().finished == expected, within=20, what=lambda: f"{running.state()} {running.log()}"
    )
    state = running.state()
    installed = [path.name for path in image.environment.glob("lib/python3*/site-packages/celery-*.dist-info")]
    assert installed == [f"celery-{state.celery_version}.dist-info"]
    metrics = running.request(protocol.PATH_METRICS)[1]
    assert (
        f'celery_task_succeeded_total{{name="shop.add",hostname="localhost",queue_name="{stage.queue}"}} 5.0' in metrics
    )
    assert [running.request(path)[0] for path in (protocol.PATH_LIVE, protocol.PATH_READY)] == [200, 200]


def test_attempt_runs_once_and_its_end_is_announced(worker: tuple[Stage, Worker]) -> None:
    stage, running = worker
    ear = stage.ear()
    sent = stage.send(stage.identity(), "shop.add", 2, 3)
    assert ear.wait(sent, protocol.SUCCESS).value == 5
    stage.send(sent, "shop.add", 2, 3)
    eventually(lambda: running.state().finished.get("DROPPED") == 1)
    reference = protocol.ResultReference(uid=sent.uid, run=1, step="step").to_json()
    assert ear.wait(stage.send(stage.identity("next"), "shop.add", reference, 1), protocol.SUCCESS).value == 6
    assert ear.wait(stage.send(stage.identity("fail"), "shop.fail", "no"), protocol.FAILURE).exception == "RuntimeError"


def test_worker_drains_by_the_prestop_command_of_the_volume(worker: tuple[Stage, Worker], image: Injected) -> None:
    stage, running = worker
    ear = stage.ear()
    sent = stage.send(stage.identity("nap"), "shop.nap", 1)
    ear.wait(sent, protocol.STARTED)
    later = stage.send(stage.identity("later"), "shop.add", 1, 1, countdown=1.5)
    running.wait_state(lambda state: (state.active, state.scheduled) == (1, 1))
    env = {
        "PATH": os.environ["PATH"],
        protocol.ENV_AGENT_ADDRESS_FILE: str(running.directory / "address"),
        protocol.ENV_AGENT_TOKEN_FILE: str(running.directory / "token"),
    }
    command = [image.python, str(image.volume / protocol.RUN_AGENT), "drain", "--timeout-seconds", "20"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith("drained after "), done
    assert [ear.about(identity)[-1].state for identity in (sent, later)] == [protocol.SUCCESS, protocol.SUCCESS]
    running.resume()
    eventually(lambda: running.state().ready)


def test_killed_workers_task_comes_back(image: Injected, redis: RedisServer, stack: ExitStack) -> None:
    stage = Stage(broker=redis, results=redis, stack=stack)
    env = {protocol.ENV_AGENT_LEASE: str(LEASE_SECONDS)}
    with image.worker(stage, env=env) as doomed:
        state = doomed.state()
        assert (state.lease_seconds, state.lease_refusal) == (LEASE_SECONDS, "")
        task_id = stage.send_plain("shop.nap", 5)
        eventually(lambda: doomed.state().active == 1)
        doomed.kill()
    with image.worker(stage, env=env) as heir:
        eventually(lambda: heir.state().active == 1, within=LEASE_SECONDS + 5, what=heir.log)
        assert f"task shop.nap[{task_id}] is back in its queue" in heir.log()


def test_image_without_redis_is_counted_and_drained(volume: Path, stage: Stage) -> None:
    """Another broker and another result backend: nothing is guarded, and nothing that needs Redis is missed."""
    image = Injected(stock_environment("celery==5.7.0"), volume)
    with image.worker(stage, broker="memory://", backend="cache+memory://", pool="solo") as running:
        assert running.state().ready
        assert "keeps no claims" in running.log()
        running.drain()
        eventually(lambda: running.state().drained)


def test_whoever_the_image_runs_as_can_read_the_agent(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        inject(tmp_path)
    finally:
        os.umask(previous)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {path for path, mode in modes.items() if mode != (0o755 if path.is_dir() else 0o644)} == set()
    assert {path.name for path in tmp_path.iterdir()} == {"celery_patterns", protocol.RUN_CELERY, protocol.RUN_AGENT}
    assert [path for path in modes if path.name == "__pycache__"] == []


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    command = [sys.executable, "-m", "celery_patterns.agent", "inject", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the agent cannot be copied into {file}: ")


def test_agent_is_written_for_the_oldest_python_of_celery() -> None:
    """Celery 5.5 to 5.7 run on Python 3.10; the agent's text is read as that release would."""
    root = Path(protocol.__file__).parent
    for path in (root / "protocol.py", root / "__init__.py", *(root / "agent").glob("*.py")):
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))
    newer = "Self, StrEnum, UTC, TaskGroup, ExceptionGroup, override"
    names = {name.strip() for name in newer.split(",")}
    used = {
        f"{path.name}: {node.id if isinstance(node, ast.Name) else alias.name}"
        for path in (root / "agent").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for alias in (node.names if isinstance(node, ast.ImportFrom) else [ast.alias("")])
        if (isinstance(node, ast.Name) and node.id in names) or alias.name in names
    }
    assert used == set()
