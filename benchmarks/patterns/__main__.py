"""``python -m benchmarks.patterns [--quick] [--only PART]``: start servers, measure, print, write, end them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict

from benchmarks import command, figures
from benchmarks.patterns.measure import FULL, PARTS, QUICK, Measurements, show_rows
from benchmarks.patterns.peers import peer_versions


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = command.parser("benchmarks.patterns", __doc__, PARTS)
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    console, say = command.begin()

    measurements = Measurements(sizes, say, quick=options.quick)
    say(f"load of this machine before: {os.getloadavg()[0]:.2f}")
    try:
        measurements.run(options.only or PARTS)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    found = measurements.figures()
    figures.show(console, "Patterns", found)
    if measurements.rows:
        show_rows(console, measurements.rows)
    name = "patterns" if not options.only else "patterns-part"
    versions = {"redis-server": _redis_version(), "python": sys.version.split()[0], **peer_versions()}
    path = figures.write(
        name,
        found,
        quick=options.quick,
        sizes=asdict(sizes),
        versions=versions,
        details=measurements.details,
    )
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    return 0


def _redis_version() -> str:
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    return next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
