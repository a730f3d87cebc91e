"""What the worker's patterns cost, and what is left when a worker is killed, beside plain Celery and its libraries."""
