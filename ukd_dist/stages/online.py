"""Teachers in memory: the students before UKD (its Fig. 2, top right), whose cost grows with every teacher.

In evaluation mode and without gradients they see the very clips that the student sees; their logits become
the clips' targets as stored logits do, by the same exact sums. No other student's process opens teachers/.
Left out: teachers of another modality, which would need clips of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ukd_dist import manifest
from ukd_dist.data.clips import Clips
from ukd_dist.errors import DataError
from ukd_dist.experiment import StudentMember
from ukd_dist.manifest import Manifest
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.reference import observe
from ukd_dist.method.weighting import Weighting
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.reduce import weighting_of
from ukd_dist.training.inference import WEIGHTS
from ukd_dist.training.trained import load_network

# A batch in; its targets [batch, C] out and, of AVG-1, their mean entropies [batch].
TargetsOf = Callable[[Clips], tuple[Tensor, Tensor | None]]


def weights_digests(run: RunDirectory, member: StudentMember) -> dict[str, str]:
    """sha256 of the weights of each teacher that a student keeps in memory, by the teacher's id.

    Raises:
        DataError: A teacher is not finished.
    """
    return {
        teacher: found.files[WEIGHTS].sha256 for teacher, found in _finished_teachers(run, member).items()
    }


def require_weights(run: RunDirectory, member: StudentMember) -> None:
    """Refuse to train a student whose teachers have no weights any more.

    Raises:
        DataError: A teacher is not finished, or its weights were dropped (`teachers.keep: logits`).
    """
    for teacher, found in _finished_teachers(run, member).items():
        if WEIGHTS not in found.present:
            raise DataError(
                f"student {member.id} keeps teacher {teacher} in memory, whose weights were dropped",
                expected=f"its {WEIGHTS}: `teachers.keep: logits` drops those that no student waits for",
                action=f"remove {run.teacher(teacher)} and train it again, or keep others in memory",
            )


def online_targets(
    run: RunDirectory, member: StudentMember, num_classes: int, device: torch.device
) -> TargetsOf:
    """What the teachers of an online student make of the clips that it sees.

    Args:
        run: Where the teachers lie.
        member: The student.
        num_classes: Classes C.
        device: Where clips come from, teachers work and targets are wanted.

    Raises:
        DataError: A teacher's file is missing or damaged.
        MismatchError: A teacher was trained on other shards.
        UsageError: The weighting's h is less than 1/C.
    """
    assert member.combination is not None
    weighting = weighting_of(member.combination)
    weighting.check_classes(num_classes)
    networks = {
        teacher: load_network(run.teacher(teacher)).to(device).requires_grad_(False)
        for teacher in member.teachers
    }

    def targets_of(batch: Clips) -> tuple[Tensor, Tensor | None]:
        bf16 = member.settings.precision == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = {teacher: network(batch.clips_bcthw) for teacher, network in networks.items()}
        opinions = {teacher: logits_bc.float().cpu() for teacher, logits_bc in logits.items()}
        target_bc, mean_entropies_b = combine(weighting, opinions, batch.labels_b.cpu())
        return target_bc.to(device), None if mean_entropies_b is None else mean_entropies_b.to(device)

    return targets_of


def combine(
    weighting: Weighting, opinions: Mapping[str, Tensor], labels_n: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One target of several teachers' logits: what a reduction would store of them.

    Args:
        weighting: How they are weighed.
        opinions: Logits by teacher, float32 `[n, C]` each, on the CPU.
        labels_n: True classes, int64 `[n]`, on the CPU.

    Returns:
        The target, float32 `[n, C]`, and of `avg1` the teachers' mean entropy, float64 `[n]`.

    Raises:
        DataError: A teacher's logits cannot be weighed; names it.
    """
    num_classes = next(iter(opinions.values())).shape[1]
    reference_n = None
    if weighting.compares:
        reference_n = torch.full((len(labels_n),), -torch.inf, dtype=torch.float64)
        for teacher, logits_nc in opinions.items():
            with _naming(teacher):
                observe(weighting, logits_nc, labels_n, reference_n)
    assembly = Assembly(weighting, len(labels_n), num_classes, reference_n=reference_n)
    for teacher, logits_nc in opinions.items():
        with _naming(teacher):
            assembly.add(logits_nc, labels_n)
    return assembly.finish(), assembly.mean_entropies() if weighting.method == "avg1" else None


@contextmanager
def _naming(teacher: str) -> Iterator[None]:
    """Add the teacher to an error in what it says."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"teacher {teacher}, kept in memory: {error.problem}",
            expected=error.expected,
            action=error.action,
        ) from error


def _finished_teachers(run: RunDirectory, member: StudentMember) -> dict[str, Manifest]:
    manifests = {}
    for teacher in member.teachers:
        found = manifest.read(run.teacher(teacher))
        if found is None:
            raise DataError(
                f"student {member.id} needs teacher {teacher}, which is not finished",
                expected="every teacher that it keeps in memory",
                action="train it with `ukd teach`, or take it out of the student's teachers",
            )
        manifests[teacher] = found
    return manifests
