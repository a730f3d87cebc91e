"""The images that tests and the demonstration run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.layout import CHECKOUT, HARNESS


@dataclass(frozen=True, slots=True)
class Image:
    """One image to build.

    Attributes:
        short: What the command line calls it.
        name: Its full name, which no registry serves: pods that use it never pull.
        dockerfile: How it is built.
        context: What the Dockerfile may copy from.
    """

    short: str
    name: str
    dockerfile: Path
    context: Path


IMAGES = (
    Image("operator", "localhost/celery-operator:dev", CHECKOUT / "operator" / "Dockerfile", CHECKOUT),
    Image("worker", "localhost/celery-worker:dev", CHECKOUT / "worker_image" / "Dockerfile", CHECKOUT),
    Image(
        "redis",
        "localhost/celery-operator-redis:dev",
        HARNESS / "images" / "redis" / "Dockerfile",
        HARNESS / "images" / "redis",
    ),
    Image(
        "rabbitmq",
        "localhost/celery-operator-rabbitmq:dev",
        HARNESS / "images" / "rabbitmq" / "Dockerfile",
        HARNESS / "images" / "rabbitmq",
    ),
    Image(
        "stock",
        "localhost/celery-operator-stock:dev",
        HARNESS / "images" / "stock" / "Dockerfile",
        CHECKOUT / "tests" / "agent" / "apps",
    ),
    Image(
        "extended",
        "localhost/celery-operator-extended:dev",
        HARNESS / "images" / "extended" / "Dockerfile",
        HARNESS / "images" / "extended",
    ),
)
"""In the order in which they can be built: "extended" stands on "worker"."""
DEFAULT_IMAGES = ("operator", "worker", "redis")
