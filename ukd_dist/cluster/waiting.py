"""Jobs that no node can take, because those that could are gone: said now and then, while they wait.

A cluster may get nodes again, by its autoscaler or by hand, so nobody fails for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ukd_dist.cluster.nodes import Node, amounts_of, copies, describe
from ukd_dist.cluster_config import Resources

FIRST_SECONDS, AGAIN_SECONDS = 30.0, 600.0


@dataclass(frozen=True)
class Wanted:
    """Jobs of one kind that are not done.

    Attributes:
        resources: Of each.
        first: Name of one of them.
        count: How many there are.
        ranks: Of each.
    """

    resources: Resources
    first: str
    count: int
    ranks: int = 1

    @property
    def amounts(self) -> str:
        """What each asks for, in words."""
        one = amounts_of(self.resources)
        return one if self.ranks == 1 else f"{self.ranks} x ({one})"


class Waiting:
    """Notices which kinds of jobs no node has had room for since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def look(self, wanted: Mapping[str, Wanted], nodes: Sequence[Node], now: float) -> Iterator[str]:
        """What is to be said now.

        Args:
            wanted: The jobs by their kind.
            nodes: Those that are alive.
            now: The moment, seconds of any clock that only goes on.
        """
        lacking = {k: w for k, w in wanted.items() if sum(copies(n, w.resources) for n in nodes) < w.ranks}
        for kind in self._since.keys() - lacking.keys():
            del self._since[kind]
            if self._said.pop(kind, None) is not None and kind in wanted:
                yield f"there is a node with {wanted[kind].amounts} again"
        for kind, jobs in lacking.items():
            since = self._since.setdefault(kind, now)
            due = self._said[kind] + AGAIN_SECONDS if kind in self._said else since + FIRST_SECONDS
            if now >= due:
                self._said[kind] = now
                yield _missing(jobs, nodes, now - since)


def _missing(jobs: Wanted, nodes: Sequence[Node], seconds: float) -> str:
    return (
        f"no node has had {jobs.amounts} for {seconds:.0f} s, and {jobs.count} job(s) wait for it, "
        f"first {jobs.first}: {describe(nodes)}; expected a node with that much; "
        "add one, or stop and lower resources"
    )
