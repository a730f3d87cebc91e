"""The one error that the harness shows without a traceback."""


class HarnessError(RuntimeError):
    """Something the person who called the harness can act upon.

    The message says what was wrong, where, and what to do; a log to read is named by its path.
    """
