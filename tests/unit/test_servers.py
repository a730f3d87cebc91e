"""Where the tests' servers come from: the machine's own programs, or another Debian release's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import servers_install
import servers_kinds
from harness.errors import HarnessError
from harness.progress import Progress
from servers_debian import Wanted, choose_mirror, fetch
from servers_kinds import KINDS, RabbitKind, every_kind, find_program, find_rabbit, kind_named, program_of, wanted_kinds
from servers_process import PORTS_OF_A_WORKER, ProcessEndedError, eventually, must_run, own_ports, running

REDIS_7, REDIS_8, VALKEY_8 = KINDS


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without servers; its PATH is the folder ``bin``, and its cache the folder ``cache``."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(servers_kinds.ENV_KIND, raising=False)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    servers_kinds.every_kind.cache_clear()
    servers_kinds.version.cache_clear()


def program(path: Path, says: str) -> Path:
    """Make a program that says something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_program_of_the_right_version_is_the_machines_own_or_the_unpacked_one(machine: Path) -> None:
    own = program(machine / "bin/redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc")
    unpacked = program(
        machine / "cache/celery-operator/servers/redis-8/usr/bin/redis-server", "Redis server v=8.0.2 sha=0"
    )
    # A Valkey may come under Redis's name.
    program(machine / "bin/valkey-server", "Redis server v=8.0.2 sha=0")
    assert [find_program(kind) for kind in KINDS] == [own, unpacked, None]
    with pytest.raises(RuntimeError, match="no Valkey 8 on this machine: call `make system`"):
        program_of(VALKEY_8)


def test_program_that_does_not_start_is_none(machine: Path) -> None:
    program(machine / "bin/redis-server", "7.0").write_text("#!/nowhere\n")
    assert find_program(REDIS_7) is None


def test_tests_run_on_the_kinds_that_are_there_and_in_ci_on_all(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "bin/redis-server", "Redis server v=8.2.1 sha=0")
    assert every_kind() == (REDIS_8,)
    monkeypatch.setenv("CI", "true")
    _forget()
    assert every_kind() == KINDS


@pytest.mark.usefixtures("machine")
def test_one_kind_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers_kinds.ENV_KIND, "valkey-8")
    assert (wanted_kinds(), every_kind()) == ((VALKEY_8,), (VALKEY_8,))
    with pytest.raises(ValueError, match=r"TEST_REDIS: expected one of redis-7, redis-8, valkey-8, got 'redis-6'"):
        kind_named("redis-6")


def test_rabbitmq_is_known_by_the_folder_that_its_package_makes(machine: Path) -> None:
    kind = RabbitKind("rabbitmq-99", 99, "trixie")
    root = machine / "cache/celery-operator/servers/rabbitmq-99"
    assert find_rabbit(kind) is None
    (root / "usr/lib/rabbitmq/lib/rabbitmq_server-99.0.5").mkdir(parents=True)
    assert find_rabbit(kind) == root


KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize(
    ("indexes", "chosen"),
    [
        pytest.param(
            [
                "https://a/docker|bookworm|stable|Docker|",
                "https://a/more|bookworm|main|Somebody|",
                "https://a/security|bookworm-security|main|Debian|" + KEYS,
                "https://a/debian|bookworm|main|Debian|" + KEYS,
            ],
            "https://a/debian",
            id="among others",
        ),
        pytest.param(
            ["https://a/more|bookworm|main||/k.gpg", f"https://a/debian|bookworm|main||{KEYS}"],
            "https://a/debian",
            id="before the first update",
        ),
        pytest.param(["https://a/debian|stable|main|Debian|"], "https://a/debian", id="by the name of the branch"),
        pytest.param(["https://a/ubuntu|noble|main|Ubuntu|"], None, id="no Debian"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_archive_is_debians_own_wherever_the_machine_has_it_from(indexes: list[str], chosen: str | None) -> None:
    assert choose_mirror("\n".join(indexes), "bookworm") == chosen


def test_archive_that_cannot_be_reached_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "servers" / "redis-8"
    wanted = Wanted("trixie", "redis-server", ("usr/bin/redis-server",), target, tmp_path / "apt.log")
    with pytest.raises(HarnessError, match=r"redis-server cannot be had from file:/nowhere trixie: |not installed"):
        fetch("file:/nowhere", wanted, Progress(Console(file=io.StringIO())))
    assert [path.name for path in target.parent.iterdir()] == ["lock"]


@pytest.mark.usefixtures("machine")
def test_what_cannot_be_had_is_told_and_in_ci_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    progress = Progress(Console(file=said, width=1000))
    servers_install.install(progress)  # without apt in its PATH this machine is no Debian
    assert said.getvalue().startswith("This machine has no redis-7, redis-8, valkey-8, rabbitmq-")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(HarnessError, match="no Debian archive among its sources of packages"):
        servers_install.install(progress)


def test_ports_lie_below_those_of_connections_and_are_each_processes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    third = {port for port, _ in zip(own_ports(), range(PORTS_OF_A_WORKER), strict=False)}
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw4")
    fourth = {port for port, _ in zip(own_ports(), range(PORTS_OF_A_WORKER), strict=False)}
    assert len(third) == len(fourth) == PORTS_OF_A_WORKER
    assert not third & fourth
    assert max(third | fourth) < first


def test_waiting_for_a_process_that_has_ended_is_over_at_once_with_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(["sh", "-c", "echo no room; exit 3"], log=log) as process:
        process.wait(10)
        with pytest.raises(ProcessEndedError, match=r"ended with 3: no room"):
            eventually(lambda: must_run(process, log), within=60.0)
