"""Failures and what is done about them: classification, retry budgets, circuit breaker, bulkhead, dead letters.

Importing this package imports nothing: workers and programs take what they need from its modules.
"""
