"""The operator on the project's own cluster: installed once, mended before each test, removed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from support.cluster import Cluster, open_own_cluster
from support.playground import Playground, await_gone, delete_namespace, playground
from support.release import DEMO_NAME, DEMO_NAMESPACE, Release
from support.shared_run import SharedRun

TEST_NAMESPACES = "celery-operator.dev/test=true"
LOG_LINES = 80


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[Cluster]:
    """The cluster that the harness started; any other is refused here, before the first write."""
    own = open_own_cluster()
    yield own
    own.api.close()


@pytest.fixture(scope="session")
def shared_run(own_cluster: Cluster) -> SharedRun:
    """The processes of this run: with pytest-xdist several, which all use the one installation."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"process {os.getpid()}"
    return SharedRun(own_cluster.kubeconfig.parent, run)


@pytest.fixture(scope="session")
def cluster(own_cluster: Cluster, shared_run: SharedRun) -> Iterator[Cluster]:
    """The cluster without what earlier runs have left on it."""
    with shared_run.alone():
        if shared_run.enter():
            _remove_leftovers(own_cluster)
            Release(own_cluster).create_namespace()
    yield own_cluster
    with shared_run.alone():
        if shared_run.leave():
            _remove_leftovers(own_cluster)


@pytest.fixture(scope="session")
def release(cluster: Cluster, shared_run: SharedRun) -> Release:
    """One installation for all tests; those that remove or change it leave that to be mended by the next."""
    return Release(cluster, turn=shared_run.alone)


@pytest.fixture
def operator(release: Release, request: pytest.FixtureRequest) -> Release:
    """The operator with two ready replicas, one of which leads, however the test before left it.

    It has the chart's ordinary values, or those of the marker ``operator_env``: environment variables by name.
    """
    marker = request.node.get_closest_marker("operator_env")
    env = [{"name": name, "value": value} for name, value in marker.kwargs.items()] if marker else []
    release.mend({"env": env} if env else None)
    return release


@pytest.fixture
def ground(cluster: Cluster, operator: Release, request: pytest.FixtureRequest) -> Iterator[Playground]:
    """A namespace of the test's own, with a Redis and a CeleryApp called ``app`` on it."""
    del operator
    name = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:40].strip("-")
    with playground(cluster, name) as fresh:
        fresh.start_redis()
        fresh.create_app()
        yield fresh


@pytest.fixture(scope="module")
def static_ground(cluster: Cluster, release: Release) -> Iterator[Playground]:
    """A namespace without servers, for what the API server answers by itself."""
    release.mend()
    with playground(cluster, "static") as fresh:
        yield fresh


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Note what was measured; it is shown at the end of the run."""

    def note(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    for report in reports:
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show, for a test that failed, what its namespace and the operator look like."""
    report = yield
    if report.failed and call.excinfo is not None and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Playground):
                report.sections.append((f"namespace {value.name}", _describe(value)))
        operator = item.funcargs.get("operator")
        if isinstance(operator, Release):
            report.sections.append(("operator", f"{operator.describe()}\n{operator.logs(lines=LOG_LINES)}"))
    return report


def _describe(ground: Playground) -> str:
    show = ground.cluster.attempt
    namespace = ("-n", ground.name)
    parts = [
        show("get", "pods,deployments,replicasets", *namespace, "-o", "wide").said,
        show("get", "events", *namespace, "--sort-by=.lastTimestamp").said,
        show("get", "celery", *namespace, "-o", "wide").said,
        show("logs", *namespace, "-l", "celery-operator.dev/pool", "--tail=40", "--prefix").said,
    ]
    return "\n".join("\n".join(part.splitlines()[-LOG_LINES:]) for part in parts)


def _remove_leftovers(cluster: Cluster) -> None:
    """Remove what this suite, or the demonstration, has made, also in a run that was interrupted."""
    for release in (Release(cluster), Release(cluster, DEMO_NAME, DEMO_NAMESPACE)):
        release.uninstall()
    names = cluster.kubectl("get", "namespaces", "-l", TEST_NAMESPACES, "-o", "name").split()
    for name in names:
        delete_namespace(cluster, name.removeprefix("namespace/"), wait=False)
    for name in names:
        await_gone(cluster, name.removeprefix("namespace/"))
