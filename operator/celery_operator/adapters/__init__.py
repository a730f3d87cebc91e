"""Everything that talks to something else: Kubernetes, brokers, result backends, worker agents, clock, metrics, logs.

Each module satisfies one protocol of ``services/ports.py``; nothing here decides anything.
"""
