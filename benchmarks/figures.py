"""What every benchmark leaves behind: a table for people, and a JSON file with the machine and the versions."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
DIGITS = 5
"""After the point: finer than anything here is measured, so what is beyond is noise of the arithmetic."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        key: Its name in the JSON file.
        title: Its name in the table.
        value: None if this run did not measure it.
        goal: What is to be reached; None for a figure that only informs.
        better: Which direction is better.
        baseline: The same thing measured of the baseline, if there is one.
        baseline_is: What the baseline is, and where its number comes from.
    """

    key: str
    title: str
    value: float | None
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    baseline: float | None = None
    baseline_is: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a value or a goal."""
        if self.value is None or self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return the figure as it stands in the file."""
        return {
            "value": self.value,
            "goal": self.goal,
            "better": self.better,
            "reached": self.reached,
            "baseline": self.baseline,
            "baseline_is": self.baseline_is,
        }


def figure(
    key: str,
    title: str,
    value: float | tuple[float | None, float | None] | None,
    *,
    goal: float | None = None,
    most: bool = False,
    of: str = "",
) -> Figure:
    """Return a figure; a pair is ours and the baseline's, ``of`` says what that is, ``most`` that more is better."""
    ours, baseline = value if isinstance(value, tuple) else (value, None)
    return Figure(
        key=key,
        title=title,
        value=None if ours is None else round(ours, DIGITS),
        goal=goal,
        better="higher" if most else "lower",
        baseline=None if baseline is None else round(baseline, DIGITS),
        baseline_is=of if baseline is not None else "",
    )


def show(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("figure")
    for column in ("measured", "baseline", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("the baseline is")
    for figure in figures:
        sign = "" if figure.goal is None else {"lower": "≤ ", "higher": "≥ "}[figure.better]
        colour = {True: "green", False: "red", None: ""}[figure.reached]
        measured = f"[{colour}]{_number(figure.value)}[/]" if colour else _number(figure.value)
        goal = sign + _number(figure.goal) if figure.goal is not None else ""
        baseline = _number(figure.baseline) if figure.baseline is not None else ""
        table.add_row(figure.title, measured, baseline, goal, figure.baseline_is)
    console.print(table)


def write(
    name: str,
    figures: Sequence[Figure],
    *,
    quick: bool,
    sizes: Mapping[str, int],
    versions: Mapping[str, str],
    details: Any,
) -> Path:
    """Write ``results/NAME.json``; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        **{figure.key: figure.to_json() for figure in figures},
        "benchmark": name,
        "quick": quick,
        "sizes": dict(sizes),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": {**package_versions(), **versions},
        "details": details,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": memory // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "load_1_minute": round(os.getloadavg()[0], 2),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of what takes part, as the lock has them."""
    return {name: version(name) for name in ("celery-operator", "celery", "kombu", "redis", "kopf", "kubernetes")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
