"""Teachers by the attempts that the coordinator would make, without a cluster."""

from __future__ import annotations

from pathlib import Path

from ukd_dist.attempts import new_attempt
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.commits import commit
from ukd_dist.stages.teacher_attempt import Work, train_teacher


def train(study: Experiment, member: TeacherMember, shard_cache: Path | None = None) -> None:
    """One attempt at a teacher, committed."""
    directory = RunDirectory(study.root).teacher(member.id)
    number = new_attempt(directory)
    commit(directory, number, train_teacher(Work(study.root, study.name, member, shard_cache), number))
