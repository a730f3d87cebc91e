"""Workers' agents in memory."""

from __future__ import annotations

from dataclasses import replace

from celery_patterns.protocol import WorkerState


def idle_worker(*, slots: int = 1, idle_seconds: float = 10.0) -> WorkerState:
    """Return the state of a worker that holds nothing."""
    return WorkerState(
        hostname="pool@pod", slots=slots, active=0, reserved=0, scheduled=0, ready=True, idle_seconds=idle_seconds
    )


def busy_worker(active: int = 1, *, slots: int = 1) -> WorkerState:
    """Return the state of a worker that runs tasks."""
    return replace(idle_worker(slots=slots, idle_seconds=0.0), active=active)


class FakeAgents:
    """The port ``WorkerAgents``: states by address. A worker that drains and holds nothing is drained at once."""

    def __init__(self, token: str | None = None) -> None:
        self.states: dict[str, WorkerState] = {}
        self.calls: list[str] = []
        self.token = token
        """If set, a drain or resume with another one is not answered."""

    async def state(self, address: str) -> WorkerState | None:
        return self.states.get(address)

    async def drain(self, address: str, token: str) -> WorkerState | None:
        return self._change("drain", address, token, draining=True)

    async def resume(self, address: str, token: str) -> WorkerState | None:
        return self._change("resume", address, token, draining=False)

    def take(self, address: str, active: int) -> None:
        """Let a worker run this many tasks from now on (0: it finishes what it runs)."""
        state = self.states[address]
        self.states[address] = _consistent(replace(state, active=active, idle_seconds=0.0 if active else 1.0))

    def _change(self, verb: str, address: str, token: str, *, draining: bool) -> WorkerState | None:
        self.calls.append(f"{verb} {address}")
        state = self.states.get(address)
        if state is None or self.token not in (None, token):
            return None
        self.states[address] = _consistent(replace(state, draining=draining, ready=not draining))
        return self.states[address]


def _consistent(state: WorkerState) -> WorkerState:
    held = state.active + state.reserved + state.scheduled + state.scheduled_due
    return replace(state, drained=state.draining and held == 0)
