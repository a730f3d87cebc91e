"""Where the chart's tests find helm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.build import build
from harness.layout import layout_for
from harness.programs import HELM_PROGRAM
from harness.progress import Progress
from helm_chart import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm on PATH; else the cluster harness's, which is built once (about two minutes) and cached."""
    found = shutil.which("helm")
    if found:
        return Helm(Path(found))
    layout = layout_for(os.environ, root=os.geteuid() == 0)
    return Helm(build(layout, Progress(), HELM_PROGRAM) / "helm")
