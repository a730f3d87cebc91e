"""What an application turns on as a whole, in one place: logs, traces, Sentry, dead letters, the guard against poison.

    app = install(Celery("shop"), features=Features(logs="json", tracing="otlp-http", dead_letters="all"))

Each can also be a setting of the application (``patterns_logs``, ...) or a variable of the environment
(``CELERY_PATTERNS_LOGS``, ...). The environment, which is the operator's, wins over the argument, the argument over the
setting. They take effect in workers, when one begins.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from celery_patterns.tasks import options
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import PolicyError

logger = logging.getLogger(__name__)

PREFIX: Final = "patterns_"
ENV_PREFIX: Final = "CELERY_PATTERNS_"

LOGS: Final = ("json", "console", "off")
TRACING: Final = ("otlp-http", "off")
DEAD_LETTERS: Final = ("declared", "all", "none")
MOST_DELIVERIES: Final = 1000

SETTINGS: Final = (
    *("store_url", "prefix", "lease_seconds", "blob_url"),
    *("dead_letters", "dead_letters_on", "dead_letter_retention", "dead_letter_limit"),
    *("max_deliveries", "max_message_bytes"),
    *("logs", "tracing", "sentry"),
)
"""All settings of the patterns, without PREFIX; the variables are ENV_PREFIX and the same in capitals."""

_PACKAGES: Final = {
    "logs": ("structlog", "worker"),
    "tracing": ("the OpenTelemetry packages", "otel"),
    "sentry": ("sentry-sdk", "sentry"),
}
"""Feature -> what it needs, and the extra of this distribution that brings it."""


@dataclass(frozen=True, slots=True)
class Features:
    """Each None: left to the setting, and without one to the default.

    Raises:
        PolicyError: If a value is none of those allowed.
    """

    logs: Literal["json", "console", "off"] | None = None
    """How workers write their logs, with the ids of task and workflow on each line; ``off``: Celery's own way."""
    tracing: Literal["otlp-http", "off"] | None = None
    """OpenTelemetry traces, exported as OpenTelemetry's own variables say."""
    sentry: bool | str | None = field(default=None, repr=False)
    """True: report errors to the project of SENTRY_DSN; a text: to the project of this DSN."""
    dead_letters: Literal["declared", "all", "none"] | None = None
    """Whose failures are kept: tasks' with the policy ``DeadLetter``, all tasks', or nobody's."""
    max_deliveries: int | None = None
    """How often a message is delivered whose worker dies each time; 0: always again."""

    def __post_init__(self) -> None:
        _check(self, "Features.")

    @classmethod
    def of(cls, given: Features, conf: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Features:
        """Return what holds: of the environment, else what was given, else of the configuration.

        Raises:
            PolicyError: If a value is none of those allowed; the message names the setting.
        """
        values: dict[str, Any] = {}
        for each in dataclasses.fields(cls):
            variable, setting = ENV_PREFIX + each.name.upper(), PREFIX + each.name
            value, source = environment.get(variable) or None, variable
            if value is not None:
                value = _from_text(each.name, value)
            elif getattr(given, each.name) is not None:
                value, source = getattr(given, each.name), f"Features.{each.name}"
            else:
                value, source = conf.get(setting), setting
            if value is not None:
                _check_one(source, each.name, value)
                values[each.name] = value
        return cls(**values)

    def to_environment(self) -> dict[str, str]:
        """Return the variables that say the same, for processes that this one starts."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        if isinstance(self.sentry, bool):
            values["sentry"] = "on" if self.sentry else "off"
        return {ENV_PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}


def join_worker(worker: Any) -> None:
    """Turn on what the worker's application asks for, before the worker sets up its logs and its pool.

    Raises:
        ValueError: If a setting is wrong, or there is none of its name.
        ModuleNotFoundError: If a feature needs a package that is not installed; the message names both.
    """
    app = worker.app
    check_names(app.conf, os.environ)
    wanted = Features.of(patterns_of(app).features or Features(), app.conf)
    # A child that is spawned rather than forked knows neither the argument nor a command line's settings.
    os.environ.update(wanted.to_environment())
    _turn_on(app, wanted, runs_tasks="prefork" not in str(worker.pool_cls))


def join_spawned_child(app: Any) -> None:
    """Turn on in a pool's process what its parent has; one that was forked has inherited it."""
    _turn_on(app, Features.of(Features(), {}), runs_tasks=True, log_at_once=True)


def check_names(conf: Iterable[str], environment: Iterable[str]) -> None:
    """Look for settings that nothing reads: a misspelt one would be without effect, and nobody would know.

    Raises:
        PolicyError: If the configuration has one. A variable is only warned of: it may be a newer version's.
    """
    for name in conf:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in SETTINGS:
            raise PolicyError(f"{name}: there is no such setting{_nearest(name.removeprefix(PREFIX), PREFIX)}")
    for name in environment:
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() not in SETTINGS:
            nearest = _nearest(name.removeprefix(ENV_PREFIX).lower(), ENV_PREFIX)
            logger.warning("%s: there is no such variable%s", name, nearest)


def _nearest(name: str, prefix: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, 1) or difflib.get_close_matches(name, SETTINGS, len(SETTINGS), 0.0)
    names = ", ".join(prefix + (each.upper() if prefix.isupper() else each) for each in near)
    return f"; did you mean {names}?" if len(near) == 1 else f"; there are {names}"


def _turn_on(app: Any, wanted: Features, *, runs_tasks: bool, log_at_once: bool = False) -> None:
    feature = ""
    try:
        if wanted.logs not in (None, "off"):
            feature = "logs"
            from celery_patterns.tasks import logs  # noqa: PLC0415 - what only those need who turn it on

            logs.enable(app, style=wanted.logs, at_once=log_at_once)  # type: ignore[arg-type] # checked
        if wanted.tracing not in (None, "off"):
            feature = "tracing"
            from celery_patterns.tasks import tracing  # noqa: PLC0415 - see above

            tracing.enable(in_this_process=runs_tasks)
        if wanted.sentry:
            feature = "sentry"
            from celery_patterns.tasks import sentry  # noqa: PLC0415 - see above

            sentry.enable(wanted.sentry if isinstance(wanted.sentry, str) else None)
    except ModuleNotFoundError as error:
        what, extra = _PACKAGES[feature]
        raise ModuleNotFoundError(
            f"{PREFIX}{feature} needs {what}, and {error.name} is not installed: install celery-operator[{extra}]"
        ) from error


def _from_text(name: str, value: str) -> Any:
    """Read a variable's text as what the setting would be."""
    if name == "sentry":
        return {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}.get(value.lower(), value)
    if name == "max_deliveries" and value.strip().isdigit():
        return int(value)
    return value


def _check(features: Features, place: str) -> None:
    for each in dataclasses.fields(features):
        value = getattr(features, each.name)
        if value is not None:
            _check_one(place + each.name, each.name, value)


def _check_one(source: str, name: str, value: Any) -> None:
    if name == "max_deliveries":
        options.whole(source, value, high=MOST_DELIVERIES)
    elif name == "sentry":
        if not isinstance(value, bool) and not (isinstance(value, str) and "://" in value):
            shown = f"a text of {len(value)} characters" if isinstance(value, str) else repr(value)
            raise PolicyError(f"{source}: expected true, false or a DSN such as https://key@host/1, got {shown}")
    else:
        options.choice(source, value, {"logs": LOGS, "tracing": TRACING, "dead_letters": DEAD_LETTERS}[name])
