"""Where helm is: the one on PATH, else the cluster's own."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.build import build
from harness.layout import Layout
from harness.programs import HELM_PROGRAM
from harness.progress import Progress


def find_helm(layout: Layout, progress: Progress) -> Path:
    """Return the helm on PATH; else one that is built once (about two minutes) and cached.

    Raises:
        HarnessError: It could not be built.
    """
    found = shutil.which("helm")
    return Path(found) if found else build(layout, progress, HELM_PROGRAM) / "helm"
