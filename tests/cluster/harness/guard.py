"""The question every test of the cluster suite asks first: is this the cluster that we started?"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import HarnessError
from harness.identity import MARK, NAMESPACE, Record, kubectl_for, read_mark
from harness.layout import Layout, layout_for


class ForeignClusterError(HarnessError):
    """There is no cluster that the harness started, or what answers is another one."""


def current_layout() -> Layout:
    """Return the folders of whoever runs this process."""
    return layout_for(os.environ, root=os.geteuid() == 0)


def require_own_cluster(layout: Layout | None = None) -> Path:
    """Return the kubeconfig of the cluster that the harness started on this machine.

    The variable KUBECONFIG and `~/.kube/config` are never looked at, and the cluster is only read from: what is there
    has to hold the random id that was written when the cluster was started.

    Args:
        layout: The folders to look in; None for the current user's.

    Raises:
        ForeignClusterError: There is no such cluster, it does not answer, or it holds another id.
    """
    layout = layout or current_layout()
    record = Record.read(layout)
    if record is None or not layout.kubeconfig.is_file():
        raise ForeignClusterError(
            f"No cluster was started by `make cluster-up` ({layout.record} or {layout.kubeconfig} is missing). "
            "The tests write to no other cluster, whatever KUBECONFIG says: run `make cluster-up` first.",
        )
    try:
        found = read_mark(kubectl_for(layout, record))
    except HarnessError as error:
        raise ForeignClusterError(
            f"The cluster of {layout.kubeconfig} does not answer, or has no ConfigMap {NAMESPACE}/{MARK}. "
            f"Run `make cluster-down cluster-up`.\n{error}",
        ) from error
    if found != record.id:
        raise ForeignClusterError(
            f"The cluster of {layout.kubeconfig} is not the one that `make cluster-up` started: its ConfigMap "
            f"{NAMESPACE}/{MARK} holds another id than {layout.record}. Nothing was written to it.",
        )
    return layout.kubeconfig
