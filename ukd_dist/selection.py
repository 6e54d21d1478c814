"""Who teaches: the teachers that a target or an online student chooses of the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ukd_dist.agreement import check_clips
from ukd_dist.errors import UsageError
from ukd_dist.target_config import Selection
from ukd_dist.training_config import Student, Teacher

_SHOWN = 5


def selected(selection: Selection, fleet: Mapping[str, Teacher], imported: Sequence[str]) -> tuple[str, ...]:
    """Ids of the teachers chosen; of an imported one nothing but its id is known to choose it by."""
    named = {field: set(getattr(selection, field)) for field in ("arch", "modality", "seed", "fold")}
    chosen = set(selection.id)
    ids = [
        id_
        for id_, settings in fleet.items()
        if all(getattr(settings, field) in values for field, values in named.items() if values)
        and (not chosen or id_ in chosen)
    ]
    if not any(named.values()):
        ids += [id_ for id_ in imported if not chosen or id_ in chosen]
    return tuple(ids[: selection.count])


def check_selection(
    selection: Selection, fleet: Mapping[str, Teacher], imported: Sequence[str], place: str
) -> None:
    """Refuse a selection by what no teacher has: the others that it names would pass for all.

    Args:
        selection: The selection.
        fleet: Teachers that are trained here, by id.
        imported: Ids of the others that may be chosen.
        place: Where the selection stands, for the message.

    Raises:
        UsageError: It names such a value; names all of its field.
    """
    for field in ("arch", "modality", "seed", "fold", "id"):
        if field == "id":
            known = {*fleet, *imported}
        else:
            known = {getattr(settings, field) for settings in fleet.values()} - {None}
        strangers = [value for value in getattr(selection, field) if value not in known]
        if strangers:
            some = ", ".join(map(str, sorted(known)[:_SHOWN])) + ", ..." * (len(known) > _SHOWN)
            raise UsageError(
                f"{place}.{field} names {', '.join(map(str, strangers))}, which no teacher has",
                expected=f"one of {some}" if known else f"no {field}",
                action="correct it, or add such a teacher",
            )


def online_teachers(student: Student, fleet: Mapping[str, Teacher], where: str) -> tuple[str, ...]:
    """Ids of the teachers that an online student keeps in memory, which all see the clips that it sees.

    Where its selection names neither a modality nor ids, they are of its own modality.

    Args:
        student: The student.
        fleet: Teachers that are trained here, by id: of others there is no network.
        where: Names the file in messages.

    Raises:
        UsageError: There are too few, one cannot see the student's clips, or the method takes one alone.
    """
    wanted, who = student.teachers, f"{where}: student '{student.name}'"
    assert wanted is not None
    check_selection(wanted, fleet, (), f"{who}: teachers")
    if not wanted.modality and not wanted.id:
        wanted = wanted.model_copy(update={"modality": (student.modality,)})
    ids = selected(wanted, fleet, ())
    if len(ids) < (wanted.count or 1):
        raise UsageError(
            f"{who} keeps {wanted.count or 'some'} teachers in memory, and the fleet has {len(ids)} of them",
            expected="so many teachers of the fleet, of the student's modality",
            action="select others or fewer, or add to teachers.fleet",
        )
    if student.weighting and student.weighting.method == "single" and len(ids) > 1:
        raise UsageError(
            f"{who} keeps {len(ids)} teachers in memory, and its weighting is of method single",
            expected="one teacher with that method",
            action="set teachers: 1, or choose another weighting",
        )
    for id_ in ids:
        if fleet[id_].modality != student.modality:
            raise UsageError(
                f"{who} sees {student.modality}, and teacher {id_}, which it keeps in memory, "
                f"{fleet[id_].modality}",
                expected="teachers of its own modality, since they see its very clips",
                action="select others, or learn from a target, whose teachers may see anything",
            )
    chosen = {id_: fleet[id_] for id_ in ids}
    check_clips(student, chosen, "of a student and its teachers in memory", "learn from a target", where)
    return ids
