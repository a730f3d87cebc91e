"""The agent of the bundled worker: health, state, drain, metrics, and the guard that runs a workflow's task once.

``celery -A APP worker -I celery_patterns.agent.autoload`` turns it on in any application. Importing this package
imports nothing: the preStop command ``python -m celery_patterns.agent`` must start at once.
"""
