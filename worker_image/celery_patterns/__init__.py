"""Task patterns for Celery applications, with or without Kubernetes. Importing this package imports nothing heavy."""
