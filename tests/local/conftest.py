"""A local cluster for a test; nothing outlives the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.local.cluster import LocalCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(SystemClock(), tmp_path) as local:
        yield local
