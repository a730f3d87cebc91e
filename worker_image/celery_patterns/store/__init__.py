"""The Redis that patterns keep their state in: connection, scripts, names, leases.

Every change is one Lua script that uses the server's time, and every key has a TTL.
"""

from celery_patterns.store.connection import Store
from celery_patterns.store.errors import StoreError, StoreFault, StoreNotConfigured, StoreUnavailable
from celery_patterns.store.script import Script
from celery_patterns.store.settings import StoreSettings

__all__ = ["Script", "Store", "StoreError", "StoreFault", "StoreNotConfigured", "StoreSettings", "StoreUnavailable"]
