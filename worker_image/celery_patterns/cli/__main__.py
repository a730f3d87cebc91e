"""``python -m celery_patterns.cli``: the same as ``celery-patterns``."""

from __future__ import annotations

import sys

from celery_patterns.cli.command import main

sys.exit(main())
