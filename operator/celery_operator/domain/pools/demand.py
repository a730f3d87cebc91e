"""Demand: what a pool's slots are needed for, as far as it can be seen."""

from __future__ import annotations

from dataclasses import dataclass

from celery_operator.domain.pools.observation import ObservedPool


@dataclass(frozen=True, slots=True)
class Demand:
    """Tasks that want a slot now."""

    known: int
    """waiting + reserved + active + scheduled that is due, over everything that answered."""
    later: int = 0
    """Tasks that workers hold for later: not demand yet, but somebody has to keep them."""
    unseen: tuple[str, ...] = ()
    """What did not answer: the broker, or workers by name. Empty: ``known`` is all there is."""

    @property
    def exact(self) -> bool:
        """Whether everything answered."""
        return not self.unseen

    @property
    def nothing_left(self) -> bool:
        """Whether it is certain that nothing is waiting, running, or held for later."""
        return self.exact and self.known == 0 and self.later == 0


def measure(observed: ObservedPool, *, agent: bool) -> Demand:
    """Count the demand. Without the agent only what waits is visible, and nothing more is expected of workers.

    Workers whose pods are being deleted finish what they hold in their own slots, which are no replicas any more.
    """
    unseen = [] if observed.waiting is not None else ["the broker"]
    known = sum((observed.waiting or {}).values())
    later = 0
    for pod in observed.active if agent else ():
        if pod.state is not None:
            known += pod.state.active + pod.state.reserved + pod.state.scheduled_due
            later += pod.state.scheduled
        elif pod.silent:
            unseen.append(pod.name)
    return Demand(known=known, later=later, unseen=tuple(unseen))
