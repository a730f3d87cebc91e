"""Tasks composed of policies: they keep their promises through ordinary ``delay`` and ``apply_async``."""

from celery_patterns.tasks.app import PatternApp, install, pattern_task
from celery_patterns.tasks.batch import Batch
from celery_patterns.tasks.batching import batch_task
from celery_patterns.tasks.context import TaskContext, current_context
from celery_patterns.tasks.dead_letter import DeadLetter
from celery_patterns.tasks.explanation import Explanation, explain
from celery_patterns.tasks.features import Features
from celery_patterns.tasks.idempotent import Idempotent
from celery_patterns.tasks.payload import PayloadLimit
from celery_patterns.tasks.policy import PolicyError
from celery_patterns.tasks.progress import Progress, cancel, read_progress
from celery_patterns.tasks.rate_limit import RateLimit
from celery_patterns.tasks.retry import Retry
from celery_patterns.tasks.singleton import Singleton
from celery_patterns.tasks.task import PatternTask
from celery_patterns.tasks.timeout import Timeout

__all__ = [
    "Batch",
    "DeadLetter",
    "Explanation",
    "Features",
    "Idempotent",
    "PatternApp",
    "PatternTask",
    "PayloadLimit",
    "PolicyError",
    "Progress",
    "RateLimit",
    "Retry",
    "Singleton",
    "TaskContext",
    "Timeout",
    "batch_task",
    "cancel",
    "current_context",
    "explain",
    "install",
    "pattern_task",
    "read_progress",
]
