"""What the commands of all benchmarks have in common: their options, and how they begin."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Sequence

from rich.console import Console


def parser(name: str, description: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    """Return the options that every benchmark has: ``--quick`` and ``--only PART``."""
    options = argparse.ArgumentParser(prog=name, description=description)
    options.add_argument("--quick", action="store_true", help="smaller sizes and fewer repeats: under three minutes")
    options.add_argument("--only", action="append", choices=parts, help="measure this part; may be given again")
    return options


def begin() -> tuple[Console, Callable[[str], None]]:
    """Return a console, and what says a line of progress on it. From here on SIGTERM interrupts as Ctrl-C does.

    So what was started for the benchmark is ended, whoever ends it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(f"  {text}", markup=False)

    return console, say
