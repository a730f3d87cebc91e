"""The stage of the resilience tests: workers of the shaky application, and messages that it did not send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patterns import stage
from servers import Worker


class Stage(stage.Stage):
    """A stage whose workers run the shaky application."""

    APPS = Path(__file__).parent / "apps"
    APP = "shaky:app"

    def publish(self, body: Any, **options: Any) -> None:
        """Publish anything to the stage's queue."""
        with self.app.producer_pool.acquire() as producer:
            producer.publish(body, exchange="", routing_key=self.queue, **options)


def lines_on_letters(worker: Worker) -> set[str]:
    """Return what a worker's metrics say of dead letters."""
    _, text = worker.request("/metrics")
    return {line for line in text.splitlines() if line.startswith("celery_agent_dead_letters")}
