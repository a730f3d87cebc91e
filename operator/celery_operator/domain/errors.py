"""What can go wrong, split by who has to act."""

from __future__ import annotations

from celery_operator.api.conditions import Reason


class CeleryOperatorError(Exception):
    """Anything this operator raises on purpose."""


class SpecError(CeleryOperatorError):
    """A resource is wrong, or names what does not exist; only its author can mend it.

    ``reason`` goes into the condition ``Accepted``; the message says where, what was expected and what to do.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class DependencyError(CeleryOperatorError):
    """Something outside is unwell; trying again later may help. ``reason`` names the condition's reason."""

    def __init__(self, message: str, reason: Reason = Reason.CONNECTION_FAILED) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BrokerError(DependencyError):
    """The broker cannot be reached or refuses. Messages never hold credentials."""


class ResultBackendError(DependencyError):
    """The result backend cannot be reached or refuses. Messages never hold credentials."""


class ClusterError(DependencyError):
    """The Kubernetes API cannot be reached or refuses."""


class Conflict(ClusterError):  # noqa: N818 - the API's own word for it
    """The object has changed since it was read (409): observe again."""


class Gone(ClusterError):  # noqa: N818 - as in HTTP
    """The object no longer exists (404)."""
