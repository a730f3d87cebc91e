"""Speed beside a baseline that is measured in the same run; each package is one ``make bench-…``."""
