"""An application whose features come from the environment of a test, by argument and as settings."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from celery_patterns.tasks import Features, PatternApp

for missing in filter(None, os.environ.get("FEATURED_MISSING", "").split(",")):
    # An import of it fails as if it were not installed.
    sys.modules[missing] = None  # type: ignore[assignment]

given: dict[str, Any] = json.loads(os.environ.get("FEATURED_ARGUMENT", "{}"))
app = PatternApp("featured", store=os.environ["FEATURED_STORE"] or None, features=Features(**given) if given else None)
app.conf.update(json.loads(os.environ.get("FEATURED_CONF", "{}")), broker_connection_retry_on_startup=True)


@app.pattern_task(name="featured.speak", shared=False)  # type: ignore[untyped-decorator]
def speak(word: str) -> str:
    """Say it to the log."""
    logging.getLogger("featured").info("said %s", word)
    return word


@app.task(name="featured.fail", shared=False)  # type: ignore[untyped-decorator]
def fail(word: str) -> None:
    """Fail, without a policy."""
    raise KeyError(word)
