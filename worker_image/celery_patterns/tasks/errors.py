"""How tasks under policies fail, beside the ways of their own."""

from __future__ import annotations


class TaskRefused(Exception):  # noqa: N818 - the base of what policies say; each says why
    """A policy let the task not run."""


class DuplicateCall(TaskRefused):
    """A call with the same key runs, waits or has run, and the policy says that this is an error."""


class RateExceeded(TaskRefused):
    """The rate limit is used up, and the policy says that this is an error."""


class TooLongDeferred(TaskRefused):
    """The task was deferred for longer than its policy allows."""


class PayloadUnavailable(TaskRefused):
    """An argument or a result was stored apart, and is not there any more."""


class ResultRefused(TaskRefused):
    """The call has been done, and what is stored as its result is nothing that this application reads."""


class ResultTooLarge(ValueError):  # noqa: N818 - it says what the result is
    """The task has run, and its result is larger than its PayloadLimit allows and cannot be stored apart."""


class Cancelled(Exception):  # noqa: N818 - like asyncio's CancelledError, it is no fault
    """The task was asked to stop, and did at a heartbeat."""


class DeadlineExceeded(TimeoutError):  # noqa: N818 - see above
    """The task's time was over, and it stopped at a heartbeat."""


class LeaseLost(Exception):  # noqa: N818 - see above
    """Another execution of this task has begun: this one was thought dead."""
