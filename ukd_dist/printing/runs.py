"""How far a run is, what a fleet will take, and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ukd_dist.printing.answers import print_aligned
from ukd_dist.units import in_bytes, in_seconds

if TYPE_CHECKING:
    from ukd_dist.stages.garbage import Collection
    from ukd_dist.stages.plan import Plan
    from ukd_dist.status import MemberStatus


def print_members(members: Sequence[MemberStatus]) -> None:
    """Print a line of each member's progress, however narrow the terminal is; there may be a thousand."""
    lines = [["kind", "id", "state", "epochs", "train top-1", "time", "attempt", "error"]]
    for m in members:
        epochs = f"{m.epoch}/{m.epochs}" if m.epochs else ""
        accuracy = f"{m.accuracy:.1%}" if m.accuracy is not None else ""
        seconds = f"{m.seconds:.0f} s" if m.seconds else ""
        if m.eta_seconds is not None:
            seconds += f" +{m.eta_seconds:.0f} s"
        attempt = f"{m.attempt} {m.host}" if m.attempt else ""
        error = " ".join(m.error.split())
        lines.append([m.kind, m.id, m.state, epochs, accuracy, seconds, attempt, error])
    print_aligned(lines)


def print_plan(plan: Plan) -> None:
    """Print a fleet's packing, time and storage, however narrow the terminal is."""
    names = (
        "network",
        "modality",
        "members",
        "done",
        "CPUs",
        "GPUs",
        "at once",
        "epoch",
        "each",
        "known from",
    )
    lines = [
        [
            *(group.arch, group.modality, str(group.members), str(group.finished)),
            *(f"{group.cpus:g}", f"{group.gpus:g}", str(group.at_once)),
            *(in_seconds(group.epoch_seconds), in_seconds(group.seconds), group.pace),
        ]
        for group in plan.groups
    ]
    print_aligned([names, *lines], right=(2, 3, 4, 5, 6, 7, 8))
    nodes = [f"{plan.nodes.count(node)} x ({node})" for node in dict.fromkeys(plan.nodes)]
    print(f"\nnodes: {'; '.join(nodes)}; at most {plan.at_once} teachers at once")
    print(f"time: {in_seconds(plan.left_seconds)} left, {in_seconds(plan.whole_seconds)} from nothing")
    kept = ", ".join(f"{in_bytes(size)} with keep: {keep}" for keep, size in plan.teacher_bytes.items())
    print(f"teachers: {kept}; checkpoints while they train: {in_bytes(plan.training_bytes)}")
    print(f"targets: {in_bytes(plan.target_bytes)}; free there: {in_bytes(plan.free_bytes)}")
    for note in plan.notes:
        print(f"note: {note}")


def print_collection(collection: Collection, *, dropped: bool) -> None:
    """Print how much of each kind is dropped, or would be."""
    kinds: dict[str, list[int]] = {}
    for item in collection.excess:
        kinds.setdefault(item.what, []).append(item.bytes)
    lines = [[what, str(len(sizes)), in_bytes(sum(sizes))] for what, sizes in kinds.items()]
    verb = "dropped" if dropped else "would be dropped"
    print_aligned(
        [
            [verb, "items", "size"],
            *lines,
            ["all", str(len(collection.excess)), in_bytes(collection.bytes)],
        ],
        right=(1, 2),
    )
