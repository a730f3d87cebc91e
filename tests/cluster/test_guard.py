"""The real kubectl at a foreign cluster: the suite's way in reads once, writes nothing, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.guard import ForeignClusterError, current_layout
from harness.identity import MARK, NAMESPACE, Record
from harness.layout import Layout
from support.cluster import Cluster, open_own_cluster
from support.recording_server import foreign_cluster

MARK_PATH = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{MARK}"


def test_a_foreign_cluster_gets_one_read_from_the_real_kubectl(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record.read(current_layout())
    assert record is not None
    layout = Layout(cache=tmp_path / "cache", state=tmp_path / "state", run=tmp_path / "run")
    record.write(layout)
    with foreign_cluster({MARK_PATH: {"data": {"id": "f" * 32}}}) as foreign:
        document = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
        document["clusters"][0]["cluster"] = {"server": foreign.url}
        document["users"][0]["user"] = {}
        layout.kubeconfig.write_text(yaml.safe_dump(document), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(layout.kubeconfig))
        with pytest.raises(ForeignClusterError):
            open_own_cluster(layout)
        assert foreign.requests == [("GET", MARK_PATH)]


def test_kubeconfig_of_the_environment_is_not_looked_at(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with foreign_cluster({}) as foreign:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig.parent / "there-is-no-such-file"))
        again = open_own_cluster()
        assert again.kubeconfig == cluster.kubeconfig
        assert again.kubectl("get", "namespace", "default", "-o", "name").strip() == "namespace/default"
        again.api.close()
        assert foreign.requests == []
