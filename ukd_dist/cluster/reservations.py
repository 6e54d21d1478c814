"""What groups of ranks hold on nodes: whether one still waits for it, and what is left of one that ended.

Ray Train reserves a group's places from a process of its own and tells nobody which they are, so groups start
one after the other: what is new is the starting one's. It also (2.60) keeps the places of a group that is
lost while it starts, and with them the ranks that are left; the next one would wait for them for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

_PLACED = "CREATED"


class Reservations:
    """The places of a coordinator's groups, by the groups' names."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._freed: set[str] = set()  # which Ray shows for a while
        self._starting = ""

    def begin(self, name: str) -> None:
        """A group starts; none may be starting."""
        self._free(self._unknown())
        self._starting = name

    def starting(self) -> str:
        """Name of the group that began and has no places yet, or empty."""
        if self._starting:
            placed = [place for place, state in self._unknown().items() if state == _PLACED]
            if placed:
                self._held[self._starting], self._starting = placed[0], ""
        return self._starting

    def end(self, name: str) -> None:
        """A group ended."""
        if name == self.starting():
            self._starting = ""
            self._free(self._unknown())
        elif place := self._held.pop(name, ""):
            self._free([place])

    def _unknown(self) -> dict[str, str]:
        known = self._freed.union(self._held.values())
        return {place: state for place, state in _own().items() if place not in known}

    def _free(self, places: Iterable[str]) -> None:
        self._freed.update(places)
        _remove(places)


def free_reservations() -> None:
    """Give back what groups of this process still hold."""
    _remove(_own())


def _own() -> dict[str, str]:
    """States of the placement groups that were made for this process, by their ids."""
    import ray
    from ray.util.placement_group import placement_group_table

    own = ray.get_runtime_context().get_job_id()  # the end of the id of everything that was made for it
    found = placement_group_table().items()
    return {id_: group["state"] for id_, group in found if id_.endswith(own) and group["state"] != "REMOVED"}


def _remove(places: Iterable[str]) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for place in places:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(place)))
