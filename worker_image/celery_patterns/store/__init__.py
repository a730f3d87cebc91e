"""The Redis that patterns keep their state in: connection, scripts, names, leases."""
