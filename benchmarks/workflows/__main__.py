"""``python -m benchmarks.workflows [--quick] [--only PART] [--keep]``: bring up, measure, print, write, remove."""

from __future__ import annotations

import sys
from dataclasses import asdict

from benchmarks import command, figures
from benchmarks.workflows.measure import FULL, PARTS, QUICK, Measurements
from benchmarks.workflows.stage import StageError, open_stage
from harness.errors import HarnessError


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = command.parser("benchmarks.workflows", __doc__, PARTS)
    parser.add_argument("--keep", action="store_true", help="leave everything in the cluster afterwards")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    console, say = command.begin()

    trouble, measurements, versions = "", None, {}
    try:
        with open_stage(say, keep=options.keep) as stage:
            versions = {"kubernetes": stage.kubernetes_version()}
            measurements = Measurements(stage, sizes, say)
            measurements.run(options.only or PARTS)
    except (AssertionError, HarnessError, StageError) as error:
        trouble = f"error: {error}"
    except KeyboardInterrupt:
        trouble = "interrupted"
    if trouble:
        console.print(trouble, style="red", markup=False)
    if measurements is None:
        return 1
    found = measurements.figures()
    figures.show(console, "Workflows", found)
    name = "workflows-part" if options.only or trouble else "workflows"
    path = figures.write(
        name, found, quick=options.quick, sizes=asdict(sizes), versions=versions, details=measurements.details
    )
    console.print(f"written to {path}", markup=False, soft_wrap=True)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
