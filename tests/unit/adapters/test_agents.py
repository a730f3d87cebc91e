"""Workers' agents are asked over HTTP; whatever is no usable answer is None."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from celery_operator.adapters.agents import AiohttpWorkerAgents
from celery_patterns.protocol import PATH_DRAIN, PATH_RESUME, PATH_STATE, WorkerState
from servers import LOOPBACK, free_port

STATE = WorkerState(hostname="w@pod", slots=4, active=1, reserved=2, scheduled=0, ready=True, queues=("a", "b"))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Agent:
    """An HTTP server in an agent's place."""

    def __init__(self) -> None:
        self.address = ""
        self.seen: list[tuple[str, str, str]] = []
        self.answer: Callable[[], Any] = lambda: web.json_response(STATE.to_json())
        self.most_at_once = 0
        self._now = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.seen.append((request.method, request.path, request.headers.get("Authorization", "")))
        try:
            answer = self.answer()
            response: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
            return response
        finally:
            self._now -= 1


def in_chunks(body: Any) -> web.Response:
    """Return an answer that does not say how long it is."""
    response = web.json_response(body)
    response.enable_chunked_encoding()
    return response


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    serving, app = Agent(), web.Application()
    app.router.add_route("*", "/{path:.*}", serving.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    serving.address = f"{LOOPBACK}:{runner.addresses[0][1]}"
    yield serving
    await runner.cleanup()


@pytest.fixture
async def agents() -> AsyncIterator[AiohttpWorkerAgents]:
    client = AiohttpWorkerAgents(answer_seconds=0.3)
    yield client
    await client.close()


async def test_each_question_has_its_path_and_only_changes_carry_the_token(
    agent: Agent, agents: AiohttpWorkerAgents
) -> None:
    assert await agents.state(agent.address) == STATE
    assert await agents.drain(agent.address, "secret") == STATE
    assert await agents.resume(agent.address, "secret") == STATE
    assert agent.seen == [
        ("GET", PATH_STATE, ""),
        ("POST", PATH_DRAIN, "Bearer secret"),
        ("POST", PATH_RESUME, "Bearer secret"),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response(STATE.to_json(), status=403),
        lambda: web.json_response(STATE.to_json(), status=500),
        lambda: web.Response(status=302, headers={"Location": "/elsewhere"}),
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(text="{", content_type="application/json"),
        lambda: web.json_response(["no", "object"]),
        lambda: web.json_response({"hostname": "w"}),
        lambda: web.json_response({**STATE.to_json(), "x": "y" * 300_000}),
        lambda: web.json_response({**STATE.to_json(), "active": None}),
        lambda: web.json_response({**STATE.to_json(), "reserved": -1}),
        lambda: web.json_response({**STATE.to_json(), "draining": "no"}),
        lambda: web.json_response({**STATE.to_json(), "idle_seconds": "long"}),
        lambda: web.json_response({**STATE.to_json(), "queues": 5}),
        lambda: in_chunks({**STATE.to_json(), "x": "y" * 300_000}),
        lambda: web.Response(text="[" * 200_000, content_type="application/json"),
        lambda: asyncio.sleep(1.0, web.Response()),
    ],
    ids=[
        "refused",
        "failed",
        "redirected",
        "no JSON type",
        "no JSON",
        "a list",
        "incomplete",
        "too large",
        "a count that is null",
        "a count below zero",
        "a word for a truth",
        "a word for seconds",
        "a number for queues",
        "too large and of no stated length",
        "too deep",
        "too late",
    ],
)
async def test_what_is_no_usable_answer_is_unknown(agent: Agent, agents: AiohttpWorkerAgents, answer: Any) -> None:
    agent.answer = answer
    assert await agents.state(agent.address) is None


@pytest.mark.parametrize(
    "address",
    [f"{LOOPBACK}:{free_port()}", "no-such-host.invalid:1", "[nonsense", ""],
    ids=["nobody listens", "unknown host", "malformed", "empty"],
)
async def test_an_address_where_nobody_answers_is_unknown(agents: AiohttpWorkerAgents, address: str) -> None:
    assert await agents.state(address) is None


async def test_questions_wait_for_their_turn_without_running_out_of_time(agent: Agent) -> None:
    agent.answer = lambda: asyncio.sleep(0.1, web.json_response(STATE.to_json()))
    client = AiohttpWorkerAgents(answer_seconds=0.3, at_once=5)
    try:
        answers = await asyncio.gather(*(client.state(agent.address) for _ in range(30)))
    finally:
        await client.close()
    assert answers == [STATE] * 30
    assert agent.most_at_once == 5
