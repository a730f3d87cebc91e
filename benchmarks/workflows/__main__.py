"""``python -m benchmarks.workflows [--quick] [--only PART] [--keep]``: bring up, measure, print, write, remove."""

from __future__ import annotations

import argparse
import signal
import sys

from rich.console import Console

from benchmarks import figures
from benchmarks.workflows.measure import FULL, PARTS, QUICK, Measurements
from benchmarks.workflows.stage import StageError, open_stage
from harness.errors import HarnessError


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.workflows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer repeats: under three minutes")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part; may be given again")
    parser.add_argument("--keep", action="store_true", help="leave everything in the cluster afterwards")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it, the stage is removed

    def say(text: str) -> None:
        console.print(f"  {text}", markup=False)

    try:
        with open_stage(say, keep=options.keep) as stage:
            measurements = Measurements(stage, sizes, say)
            measurements.run(options.only or PARTS)
            found = measurements.figures()
            versions = {"kubernetes": stage.kubernetes_version()}
    except (AssertionError, HarnessError, StageError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    figures.show(console, "Workflows", found)
    name = "workflows" if not options.only else "workflows-part"
    path = figures.write(
        name, found, quick=options.quick, sizes=sizes.to_json(), versions=versions, details=measurements.details
    )
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
