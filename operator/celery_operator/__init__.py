"""A Kubernetes operator for Celery: workflows and worker pools as resources."""

__version__ = "0.1.0"
