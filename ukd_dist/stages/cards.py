"""A card of each teacher of the report: its trainings, and what it had to say in each target.

Teachers that differ by their seed, or by the fold that they left out, share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ukd_dist.stages.charts import Curve, line_chart, style
from ukd_dist.stages.findings import Group
from ukd_dist.stages.provenance import Origin, Voice, merged

MOST_CARDS = 60


@dataclass(frozen=True)
class Card:
    """One teacher.

    Attributes:
        group: Its members, settings and results.
        chart: Training accuracy over epochs; None where no epoch is finished.
        voices: Name of a target -> what its members contributed together.
    """

    group: Group
    chart: Markup | None
    voices: dict[str, Voice]


def read_cards(
    teachers: Sequence[Group], origins: Sequence[Origin], chance: float | None
) -> tuple[list[Card], int]:
    """The cards of the first `MOST_CARDS` teachers, and how many others there are."""
    cards = [Card(group, _chart(group, chance), _voices(group, origins)) for group in teachers[:MOST_CARDS]]
    return cards, len(teachers) - len(cards)


def _chart(group: Group, chance: float | None) -> Markup | None:
    accuracy = [[epoch.accuracy for epoch in member.history] for member in group.members if member.history]
    if not accuracy:
        return None
    curve = Curve(group.label, style(0), accuracy)
    return line_chart("training accuracy, %", [curve], percent=True, reference=chance)


def _voices(group: Group, origins: Sequence[Origin]) -> dict[str, Voice]:
    ids = {member.id for member in group.members}
    found = {}
    for origin in origins:
        if spoken := [voice for voice in origin.voices if voice.label in ids]:
            found[origin.target.name] = merged(group.label, spoken)
    return found
