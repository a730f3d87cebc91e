"""Where the chart's tests find helm."""

from __future__ import annotations

import pytest

from harness.guard import current_layout
from harness.helm import find_helm
from harness.progress import Progress
from helm_chart import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm on PATH; else the cluster harness's, which is built once (about two minutes) and cached."""
    return Helm(find_helm(current_layout(), Progress()))
