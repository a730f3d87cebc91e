"""How long a task whose worker is gone is waited for, where its spec does not say."""

from __future__ import annotations

from celery_operator.domain.pools.resolved_app import ResolvedApp

LOST_AFTER_SECONDS = 60
"""Default of lostAfterSeconds: two leases of a claim."""

SLACK_SECONDS = 30
"""By which it exceeds the lease of messages: a message is back in its queue up to four seconds after its lease, and a
worker has to come free."""


def default_lost_after(app: ResolvedApp) -> int:
    """Return lostAfterSeconds for tasks that set none: late enough for their own message to bring them back first.

    Only Redis knows such a lease: RabbitMQ gives messages back as soon as the dead worker's connection closes.
    """
    if not app.broker_is_redis:
        return LOST_AFTER_SECONDS
    return max(LOST_AFTER_SECONDS, app.recovery.lease_seconds + SLACK_SECONDS)
