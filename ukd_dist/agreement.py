"""What teachers and students must agree on, beyond what each of them may say by itself: views.

A teacher's logits speak of the frames, crop and flip that it saw. The teachers of one target must have seen
the same, and a student that gets a target for each view must see exactly that view.
"""

from __future__ import annotations

from collections.abc import Mapping

from ukd_dist.config import Clip, Student, Teacher, Views
from ukd_dist.errors import UsageError


def common_views(target: str, teachers: Mapping[str, Teacher], where: str) -> Views:
    """What all teachers of a target saw.

    Args:
        target: Name of the target.
        teachers: Its teachers by id, as far as their settings are known: not the imported ones.
        where: Names the file in messages.

    Raises:
        UsageError: Two of them saw different views.
    """
    if not teachers:
        return Views()
    (first, expected), *others = ((teacher, settings.views) for teacher, settings in teachers.items())
    for teacher, views in others:
        if views != expected:
            raise UsageError(
                f"{where}: target '{target}' mixes views: teacher {first} sees {expected.name}, "
                f"teacher {teacher} {views.name}",
                expected="the same views of all its teachers",
                action="give them the same views, or let data.views hold for all",
            )
    return expected


def check_view(student: Student, views: Views, teachers: Mapping[str, Teacher], where: str) -> None:
    """Refuse a student that would not see what its target speaks of.

    Args:
        student: A student with a target.
        views: What the target's teachers saw.
        teachers: They, by id.
        where: Names the file in messages.

    Raises:
        UsageError: It sees free crops, but there is a target for each view; or it is to see stored views that
            are averaged, or that were taken with another clip.
    """
    if student.view == "free":
        if views.kind == "random":
            raise UsageError(
                f"{where}: student '{student.name}' sees free crops, and target '{student.targets}' speaks "
                f"of {views.count} stored views of a video, each by itself ({views.name})",
                expected="view: stored",
                action="set it, or change data.views.kind to centre or mean",
            )
        return
    if views.kind == "mean":
        raise UsageError(
            f"{where}: student '{student.name}' is to see stored views, and target '{student.targets}' holds "
            f"their mean only ({views.name})",
            expected="logits of single views",
            action="set view: free, or change data.views.kind to random or centre",
        )
    for teacher, settings in teachers.items():
        for field in Clip.model_fields:
            own, stored = getattr(student.clip, field), getattr(settings.clip, field)
            if own != stored:
                raise UsageError(
                    f"{where}: student '{student.name}' is to see what teacher {teacher} saw, and its "
                    f"clip.{field} is {own}, the teacher's {stored}",
                    expected="equal clips with view: stored",
                    action=f"give both the same clip.{field}, or set view: free",
                )
