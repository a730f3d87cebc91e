"""The shop's Celery application."""

from celery import Celery
from rich.filesize import decimal

app = Celery("shop")
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)


@app.task(name="shop.describe")  # type: ignore[untyped-decorator]
def describe(name: str, size: int) -> str:
    """Say how large a picture is."""
    return f"{name}, {decimal(size)}"
