"""What doctor asks of Sentinel: which master is meant, who answers and agrees, and whether that server is a master."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from celery_patterns import protocol
from celery_patterns.cli.check_workers import brief
from celery_patterns.cli.findings import Finding, error, ok, unknown, warning
from celery_patterns.store import sentinels
from celery_patterns.tasks.patterns import patterns_of

PASSWORD = "{options}['sentinel_kwargs'] = {{'password': ...}} where sentinels want a password of their own"


@dataclass(frozen=True, slots=True)
class Use:
    """A connection that goes by sentinels."""

    whose: str
    """Begins each message."""
    url: str
    name: str | None
    """Of the master."""
    options: str
    """The setting with the transport options."""
    to_sentinels: dict[str, Any]
    tls: dict[str, Any]


@dataclass(slots=True)
class Answers:
    """What the sentinels say."""

    masters: dict[str, list[str]] = field(default_factory=dict)
    """Address of the master: sentinels that name it."""
    ignorant: list[str] = field(default_factory=list)
    """Sentinels that know no such master."""
    silent: dict[str, str] = field(default_factory=dict)
    """Sentinels that do not answer, or refuse, and how."""
    watched: set[str] = field(default_factory=set)
    """Names of all masters that they know."""
    asked: Any = None
    """A client of one that knows the master."""


def uses(app: Any) -> list[Use]:
    """Return the connections of an application that go by sentinels."""
    conf = app.conf
    results = (conf.result_backend_transport_options, conf.redis_backend_use_ssl)
    settings = [
        ("", conf.broker_url, "broker_transport_options", conf.broker_transport_options, conf.broker_use_ssl),
        ("results: ", conf.result_backend, "result_backend_transport_options", *results),
    ]
    found = [
        Use(
            whose,
            str(url),
            (options or {}).get("master_name"),
            setting,
            dict((options or {}).get("sentinel_kwargs") or {}),
            {"ssl": True, **tls} if isinstance(tls, dict) else {},
        )
        for whose, url, setting, options, tls in settings
        if str(url or "").startswith(sentinels.SCHEME)
    ]
    store = patterns_of(app).store.settings.url
    if store and store.startswith(sentinels.SCHEME):
        to_sentinels = dict(sentinels.option(conf, "sentinel_kwargs") or {})
        found.append(
            Use("store: ", store, sentinels.master_name(store, conf), "broker_transport_options", to_sentinels, {})
        )
    return found


def sentinel(app: Any) -> Iterator[Finding]:
    """Look at each group of sentinels that is used."""
    for use in uses(app):
        answers = _ask(use)
        if not answers.masters:
            yield _none(use, answers)
            continue
        yield from _agreed(use, answers)
        if len(answers.masters) == 1:
            yield from _prospects(use, answers)
            yield _role(use, next(iter(answers.masters)))


def _ask(use: Use) -> Answers:
    answers = Answers()
    to_sentinels = {**sentinels.ASKED_ONCE, **use.to_sentinels}
    for host, port in sentinels.addresses(use.url):
        sentinel = f"{host}:{port}"
        client: Any = redis.Redis(host=host, port=port, decode_responses=True, **to_sentinels)
        try:
            answers.watched |= set(client.sentinel_masters())
            master = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", use.name) if use.name else None
        except (RedisError, OSError) as problem:
            answers.silent[sentinel] = protocol.mask_url(str(problem))
            if isinstance(problem, AuthenticationError):
                answers.silent[sentinel] += f" ({PASSWORD.format(options=use.options)})"
            continue
        if master:
            answers.masters.setdefault(":".join(map(str, master)), []).append(sentinel)
            answers.asked = client
        else:
            answers.ignorant.append(sentinel)
    return answers


def _none(use: Use, answers: Answers) -> Finding:
    """Say why nobody has named a master."""
    watched = sorted(answers.watched)
    setting = f"{use.options} = {{'master_name': {(watched or ['NAME'])[0]!r}}}"
    known = f"; the sentinels know {', '.join(watched)}" if watched else ""
    if not use.name:
        return error("sentinel", f"{use.whose}no master_name is set{known}", setting)
    if answers.ignorant:
        return error("sentinel", f"{use.whose}no sentinel knows the master {use.name}{known}", setting)
    reasons = "; ".join(f"{sentinel}: {why}" for sentinel, why in answers.silent.items())
    return error(
        "sentinel",
        f"{use.whose}no sentinel answers: {reasons}",
        f"their addresses in the URL, parted by ';'; {PASSWORD}".format(options=use.options),
    )


def _agreed(use: Use, answers: Answers) -> Iterator[Finding]:
    """Judge how many name the master, and whether it is the same."""
    number = len(sentinels.addresses(use.url))
    if len(answers.masters) > 1:
        named = "; ".join(f"{master} (say {', '.join(by)})" for master, by in sorted(answers.masters.items()))
        yield error(
            "sentinel",
            f"{use.whose}the sentinels do not agree who is the master {use.name}: {named}",
            "wait if it is failing over just now; else these sentinels do not watch one group: name only those that do",
        )
        return
    ((master, by),) = answers.masters.items()
    said = f"{use.whose}{len(by)} of {number} sentinels name {master} as the master {use.name}"
    missing = [f"{sentinel}: {why}" for sentinel, why in answers.silent.items()]
    missing += [f"{sentinel} does not know it" for sentinel in answers.ignorant]
    if missing:
        yield warning("sentinel", f"{said}; {brief(missing)}", "mend these sentinels, or take them out of the URL")
    else:
        yield ok("sentinel", said)


def _prospects(use: Use, answers: Answers) -> Iterator[Finding]:
    """Judge whether a failover would succeed, and be found by those who connect."""
    try:
        answers.asked.execute_command("SENTINEL CKQUORUM", use.name)
    except RedisError as problem:
        yield warning(
            "sentinel",
            f"{use.whose}the sentinels cannot fail {use.name} over: {problem}",
            "start the sentinels that are missing, or lower the quorum (SENTINEL SET ... quorum)",
        )
    state = answers.asked.sentinel_master(use.name)
    if not int(state.get("num-slaves", 0)):
        yield warning(
            "sentinel",
            f"{use.whose}the master {use.name} has no replica: a failover has nowhere to go",
            "a replica (replicaof)",
        )
    others = int(state.get("num-other-sentinels", 0))
    if others and len(sentinels.addresses(use.url)) == 1:
        yield warning(
            "sentinel",
            f"{use.whose}one of {others + 1} sentinels is named: while it is away nobody can connect",
            "name all of them in the URL, parted by ';'",
        )


def _role(use: Use, address: str) -> Finding:
    """Ask the server itself."""
    host, _, port = address.rpartition(":")
    url = sentinels.parts(use.url)[0]
    client: Any = redis.Redis(
        host=host,
        port=int(port),
        **sentinels.credentials(url),
        **use.tls,
        **sentinels.ASKED_ONCE,
    )
    try:
        role = client.execute_command("ROLE")[0].decode()
    except NoPermissionError:
        return unknown(
            "sentinel", f"{use.whose}whether {address} is a master may not be asked", "ACL SETUSER ... +role"
        )
    except (RedisError, OSError) as problem:
        return error(
            "sentinel",
            f"{use.whose}the sentinels name {address}, which does not answer from here: "
            f"{protocol.mask_url(str(problem))}",
            "an address that workers reach: replica-announce-ip on the servers, sentinel announce-ip; or its password",
        )
    finally:
        client.close()
    if role != "master":
        return error(
            "sentinel",
            f"{use.whose}the sentinels name {address} as master, which says that it is a {role}: writes are refused",
            "wait if it is failing over just now; else SENTINEL RESET on each sentinel, or monitor the right server",
        )
    return ok("sentinel", f"{use.whose}{address} says that it is a master")
