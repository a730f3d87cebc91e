"""The cluster tests refuse every cluster that the harness did not start, without one write to it."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from harness.guard import ForeignClusterError, require_own_cluster
from harness.identity import MARK, NAMESPACE, Record
from harness.layout import Layout
from support.cluster import open_own_cluster
from support.recording_server import ForeignCluster, foreign_cluster

MARK_PATH = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{MARK}"
OWN_ID = "0123456789abcdef0123456789abcdef"

KUBECTL = '''#!{python}
"""Stands in for kubectl: `get --raw` is a GET of the server in the kubeconfig that is named, all else a POST."""
import sys, urllib.error, urllib.request, yaml
named = [each.partition("=")[2] for each in sys.argv if each.startswith("--kubeconfig=")]
assert len(named) == 1, "the kubeconfig has to be named"
document = yaml.safe_load(open(named[0], encoding="utf-8"))
server = document["clusters"][0]["cluster"]["server"]
words = [each for each in sys.argv[1:] if not each.startswith(("--kubeconfig", "--cache-dir", "--request-timeout"))]
reads = words[:2] == ["get", "--raw"]
request = urllib.request.Request(server + (words[2] if reads else "/written"), method="GET" if reads else "POST")
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"Error from server: {{error}}")
'''

Refuses = Callable[[], object]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Folders of nobody's cluster yet."""
    return Layout(cache=tmp_path / "cache", state=tmp_path / "state", run=tmp_path / "run")


@pytest.fixture(params=["require_own_cluster", "open_own_cluster"])
def opened(request: pytest.FixtureRequest, layout: Layout) -> Refuses:
    """The question itself, and the way in that every test of the cluster takes."""
    if request.param == "require_own_cluster":
        return lambda: require_own_cluster(layout)
    return lambda: open_own_cluster(layout)


def _kubeconfig(path: Path, server: str) -> Path:
    cluster = {"name": "production", "cluster": {"server": server}}
    context = {"name": "production", "context": {"cluster": "production", "user": "admin"}}
    user = {"name": "admin", "user": {"token": "powerful"}}
    document = {"apiVersion": "v1", "kind": "Config", "current-context": "production"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        yaml.safe_dump({**document, "clusters": [cluster], "contexts": [context], "users": [user]}), encoding="utf-8"
    )
    return path


def _remember(layout: Layout, tmp_path: Path, server: str) -> None:
    """Leave what a start of the harness leaves, but with a kubeconfig that leads to this server."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable), encoding="utf-8")
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    Record(id=OWN_ID, backend="node", kubectl=str(kubectl), helm=str(tmp_path / "helm")).write(layout)
    _kubeconfig(layout.kubeconfig, server)


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForeignCluster]:
    """A cluster to which KUBECONFIG and the kubeconfig of the home folder lead. It even holds a mark, of another id."""
    with foreign_cluster({MARK_PATH: {"data": {"id": "f" * 32}}}) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(_kubeconfig(tmp_path / "elsewhere" / "config", cluster.url)))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        _kubeconfig(tmp_path / "home" / ".kube" / "config", cluster.url)
        yield cluster


def test_without_a_cluster_of_its_own_nothing_is_asked_of_the_one_in_kubeconfig(
    opened: Refuses, production: ForeignCluster
) -> None:
    with pytest.raises(ForeignClusterError, match="make cluster-up"):
        opened()
    assert production.requests == []


def test_a_cluster_with_another_id_is_refused_after_one_read(
    opened: Refuses, production: ForeignCluster, layout: Layout, tmp_path: Path
) -> None:
    _remember(layout, tmp_path, production.url)
    with pytest.raises(ForeignClusterError, match="is not the one that `make cluster-up` started"):
        opened()
    assert production.requests == [("GET", MARK_PATH)]
    assert production.writes == []


def test_a_cluster_without_an_id_is_refused_after_one_read(opened: Refuses, layout: Layout, tmp_path: Path) -> None:
    with foreign_cluster({}) as production:
        _remember(layout, tmp_path, production.url)
        with pytest.raises(ForeignClusterError, match="has no ConfigMap"):
            opened()
        assert production.requests == [("GET", MARK_PATH)]


def test_a_cluster_with_an_empty_mark_is_refused(opened: Refuses, layout: Layout, tmp_path: Path) -> None:
    with foreign_cluster({MARK_PATH: {"data": {}}}) as production:
        _remember(layout, tmp_path, production.url)
        with pytest.raises(ForeignClusterError):
            opened()
        assert production.writes == []


def test_its_own_cluster_is_taken_and_only_read(layout: Layout, tmp_path: Path) -> None:
    """The counterpart: what is refused above is refused for its id."""
    with foreign_cluster({MARK_PATH: {"data": {"id": OWN_ID}}}) as own:
        _remember(layout, tmp_path, own.url)
        assert require_own_cluster(layout) == layout.kubeconfig
        assert own.requests == [("GET", MARK_PATH)]


def test_the_stand_in_for_kubectl_would_show_a_write(layout: Layout, tmp_path: Path) -> None:
    """The recording can fail: a write by the same client is seen as one."""
    from harness.identity import kubectl_for, mark

    with foreign_cluster({}) as cluster:
        _remember(layout, tmp_path, cluster.url)
        record = Record.read(layout)
        assert record is not None
        mark(kubectl_for(layout, record), OWN_ID)
        assert cluster.writes == [("POST", "/written")]
