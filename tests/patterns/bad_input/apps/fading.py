"""The sturdy application, whose broker loses its memory once, after a worker has connected and before it consumes."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery.bootsteps import StartStopStep
from celery.worker.consumer import Tasks
from sturdy import app  # type: ignore[import-not-found]  # beside this file, which is where the worker looks

app.conf.update(broker_url=os.environ["CELERY_BROKER_URL"])


class Fade(StartStopStep):  # type: ignore[misc]
    """Fills the broker's Redis."""

    requires = ("celery.worker.consumer:Connection",)
    faded = False

    def start(self, consumer: Any) -> None:
        """Take its memory, the first time."""
        if not Fade.faded:
            Fade.faded = True
            with redis.Redis.from_url(consumer.app.conf.broker_url) as client:
                client.config_set("maxmemory", 1)


app.steps["consumer"].add(Fade)
# Steps begin in the order of what they require.
Tasks.requires = (*Tasks.requires, Fade)
