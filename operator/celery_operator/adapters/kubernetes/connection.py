"""One connection to the API server: login, requests as JSON, bounded retries, errors of our own kind."""

from __future__ import annotations

import asyncio
import http
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import getproxies_environment

import aiohttp
import structlog
import yaml
from kubernetes.aio import client, config
from kubernetes.aio.config import ConfigException
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_exponential,
)

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import ClusterError, Conflict, Gone
from celery_operator.services.ports import Manifest

REQUEST_SECONDS = 10.0
"""One try. API servers answer in milliseconds; behind a failing one a try should not outlast a lease."""

TRIES = 4
ALL_TRIES_SECONDS = 20.0
"""All tries of one call together: after that it is for the caller, who observes again later."""

USER_AGENT = "celery-operator"

LAST_TRY_SECONDS = ALL_TRIES_SECONDS - REQUEST_SECONDS
"""No try begins after this, counted from the first one; if the server asks for a longer pause, the caller waits."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 3.0
"""Between two tries, doubled each time, and up to as much again by chance: those who failed together part."""

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_config: Any = config
"""It says that it is typed and is not."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_MISSING_CREDENTIALS = (401, 403)

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

_log = structlog.get_logger(__name__)


class _Transient(ClusterError):  # noqa: N818 - becomes a ClusterError's message for callers
    """May succeed if it is tried again."""

    def __init__(self, message: str, *, reached: bool, after: float = 0.0) -> None:
        super().__init__(message)
        self.reached = reached
        """Whether the server may have done it already."""
        self.after = after
        """Seconds that the server asks to wait."""


class NotServed(ClusterError):  # noqa: N818 - what is missing is the resource, not the answer
    """The API server does not know this resource."""


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class ApiConnection:
    """A logged-in client of the API server. Use ``await ApiConnection.open()``; close it in the end.

    A service account's token is read again every minute, as Kubernetes rotates it; whatever else is refused with 401
    makes it log in anew, once.
    """

    def __init__(self, kubeconfig: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._login_lock = asyncio.Lock()
        self._client: Any = None

    @classmethod
    async def open(cls, kubeconfig: str | Path | None = None) -> ApiConnection:
        """Log in and return the connection.

        Args:
            kubeconfig: Path of a kubeconfig; None: the environment variable KUBECONFIG if it is set, else as a pod's
                service account, else ``~/.kube/config``.

        Raises ClusterError if there is no usable login.
        """
        path = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG") or None
        connection = cls(path)
        await connection._login()
        return connection

    async def _login(self) -> None:
        settings: Any = client.Configuration()
        # For proxies alone: with it aiohttp looks for ~/.netrc, in a thread, before every single request.
        settings.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
        settings.retries = None  # retrying is decided here; False would count as a number of tries
        try:
            if self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                _config.load_incluster_config(client_configuration=settings)
            else:
                await _config.load_kube_config(
                    config_file=self._kubeconfig, client_configuration=settings, persist_config=False
                )
        except (ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
            where = self._kubeconfig or "the service account or ~/.kube/config"
            raise ClusterError(f"cannot log in to Kubernetes with {where}: {error}") from error
        opened: Any = client.ApiClient(settings)
        opened.user_agent = USER_AGENT
        previous, self._client = self._client, opened
        if previous is not None:
            await previous.close()

    async def request(
        self,
        method: Method,
        path: str,
        *,
        query: str = "",
        body: Any = None,
        content_type: str = JSON,
        idempotent: bool = True,
    ) -> Manifest:
        """Send a request and return the JSON answer.

        Args:
            method: HTTP's.
            path: Escaped, from the root.
            query: Encoded, without the question mark.
            body: A JSON value.
            content_type: Of the body.
            idempotent: Whether it may be sent again if the connection broke before the answer.

        Raises Gone (404 for an object), Conflict (409), ClusterError (everything else).
        """
        url = f"{path}?{query}" if query else path
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Transient) and (idempotent or not error.reached)),
            wait=_pause,
            stop=stop_any(stop_after_attempt(TRIES), stop_before_delay(LAST_TRY_SECONDS)),
            reraise=True,
        )
        try:
            return await tries(self._try, method, url, body, content_type)
        except _Transient as error:
            raise ClusterError(error.message, error.reason) from error

    async def _try(self, method: Method, url: str, body: Any, content_type: str) -> Manifest:
        answer = await self._send(method, url, body, content_type)
        if answer.status == http.HTTPStatus.UNAUTHORIZED:
            await self._login_again()
            answer = await self._send(method, url, body, content_type)
        if 200 <= answer.status < 300:
            return _decode(answer.body, method, url)
        raise _error(answer, method, url)

    async def _login_again(self) -> None:
        used = self._client
        async with self._login_lock:
            if self._client is used:
                await self._login()

    async def _send(self, method: Method, url: str, body: Any, content_type: str) -> _Answer:
        api = self._client
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": USER_AGENT}
        for setting in (await api.configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        try:
            response = await api.rest_client.request(
                method, api.configuration.host + url, headers=headers, body=body, _request_timeout=_TIMEOUT
            )
            async with response.response as raw:
                return _Answer(raw.status, raw.headers, await raw.read())
        except aiohttp.ClientConnectorError as error:
            raise _Transient(f"the Kubernetes API cannot be reached: {error}", reached=False) from error
        except TimeoutError as error:
            message = f"the Kubernetes API did not answer {method} {url} within {REQUEST_SECONDS:g} s"
            raise _Transient(message, reached=True) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"the connection to the Kubernetes API broke in {method} {url}: {error or type(error).__name__}"
            raise _Transient(message, reached=True) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS)

_back_off = wait_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


def _pause(tries: RetryCallState) -> float:
    """Return the seconds before the next try: what the server asks for, if that is longer than our own back-off."""
    failed = tries.outcome.exception() if tries.outcome is not None else None
    asked = failed.after if isinstance(failed, _Transient) else 0.0
    return max(asked, _back_off(tries) * random.uniform(1, 2))


def _decode(body: bytes, method: Method, url: str) -> Manifest:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise ClusterError(f"the answer to {method} {url} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ClusterError(f"the answer to {method} {url} is not an object")
    return value


def _error(answer: _Answer, method: Method, url: str) -> ClusterError:
    """Return what a refusal means, in the API server's own words."""
    try:
        status = json.loads(answer.body)
        words = str(status["message"])
        details = status.get("details") or {}
    except (ValueError, KeyError, TypeError):
        words, details = http.HTTPStatus(answer.status).phrase if answer.status in _PHRASES else "no reason given", {}
    message = f"{words} ({method} {url}: {answer.status})"
    match answer.status:
        case 409:
            return Conflict(message)
        case 404 if details.get("name"):
            return Gone(message)
        case 404:
            return NotServed(f"the Kubernetes API does not serve this: are the CRDs installed? {message}")
        case code if code in _TRANSIENT:
            return _Transient(message, reached=code != http.HTTPStatus.TOO_MANY_REQUESTS, after=_retry_after(answer))
        case code if code in _MISSING_CREDENTIALS:
            return ClusterError(message, Reason.AUTHENTICATION_FAILED)
        case _:
            return ClusterError(message)


_PHRASES = frozenset(int(status) for status in http.HTTPStatus)


def _retry_after(answer: _Answer) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
