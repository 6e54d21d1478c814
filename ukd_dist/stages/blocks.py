"""What a task of the reduction does: the running sums of one block of rows over all teachers, and its target.

A task reads its rows of one teacher after another and keeps sums only, so its memory does not grow with the
number of teachers. Weightings that compare teachers read twice: once for the reference, once for the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ukd_dist.data.knowledge import MEAN_ENTROPY, TARGET
from ukd_dist.data.rowarray import RowArray
from ukd_dist.data.sums import read_sums, write_sums
from ukd_dist.errors import DataError, UkdError
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.reference import observe
from ukd_dist.method.weighting import Weighting

REFERENCE, TOTALS = "reference", "totals"


@dataclass(frozen=True)
class Opinion:
    """One teacher's logits, and on which of its rows it is heard.

    Attributes:
        logits: `[rows, classes]` or `[rows, views, classes]`.
        out_of_fold: It is heard only on rows that it was not trained on.
    """

    logits: RowArray
    out_of_fold: bool = False

    def read(self, begin: int, end: int, buffer: bytearray) -> tuple[Tensor, Tensor | None]:
        """Logits of rows `begin` to `end`, one for each view, and where they are heard; None: everywhere.

        The logits lie in the buffer, as `RowArray.read` says.
        """
        logits_nc = self.logits.read(begin, end, buffer=buffer).flatten(0, -2)
        if self.logits.covers is None and not self.out_of_fold:
            return logits_nc, None
        return logits_nc, self.heard(begin, end).repeat_interleave(self.num_views)

    def heard(self, begin: int, end: int) -> Tensor:
        """Whether the teacher is heard on rows `begin` to `end`, bool."""
        covers, trained_on = self.logits.covers, self.logits.trained_on
        heard_n = torch.ones(end - begin, dtype=torch.bool) if covers is None else covers.read(begin, end)
        if self.out_of_fold:
            assert trained_on is not None, f"{self.logits.path} does not say what it was trained on"
            heard_n = heard_n & ~trained_on.read(begin, end)
        return heard_n

    @property
    def num_views(self) -> int:
        """Stored views of each row."""
        return self.logits.shape[1] if len(self.logits.shape) == 3 else 1


@dataclass(frozen=True)
class Work:
    """The assembly of one target, whichever block.

    Attributes:
        weighting: How opinions are weighed.
        num_classes: Classes.
        num_views: Stored views of a video; each is assembled as a row of its own.
        add: Teachers to add.
        remove: Teachers to take out of the sums that it starts from.
        sums: Folder of the target's sums.
        digest: Of what is summed.
        keep: Write the sums too, for other targets to start from; else what is finished of them.
    """

    weighting: Weighting
    num_classes: int
    num_views: int
    add: tuple[Opinion, ...]
    remove: tuple[Opinion, ...]
    sums: Path
    digest: str
    keep: bool


@dataclass(frozen=True)
class Block:
    """Rows `begin` to `begin + len(labels_n)`.

    Attributes:
        begin: The first row.
        labels_n: True classes, int64.
        base: Sums of these rows to start from, or None to start from zero.
    """

    begin: int
    labels_n: Tensor
    base: Path | None = None

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.begin + len(self.labels_n)

    def labels(self, num_views: int) -> Tensor:
        """True classes of the rows, each as often as it has views."""
        return self.labels_n.repeat_interleave(num_views)


def divide(labels_n: Tensor, begins: range, sums: Mapping[int, Path]) -> list[Block]:
    """The rows in blocks, each with the sums that it starts from where there are any."""
    # Of a slice, the labels of all rows would travel to the task.
    return [Block(n, labels_n[n : n + begins.step].clone(), sums.get(n)) for n in begins]


def assemble_block(work: Work, block: Block) -> tuple[int, Path, int]:
    """Assemble one block over all teachers and write its target and sums (a Ray task).

    Returns:
        The block's first row, the file, and the bytes of logits that were read.

    Raises:
        DataError: A teacher's logits are damaged or not finite, or nobody speaks of some rows.
    """
    torch.set_num_threads(1)
    assembly, read_bytes = assemble(work, block)
    tensors = {TARGET: assembly.finish(), TOTALS: torch.stack(assembly.totals(), dim=1)}
    if assembly.sums.entropy is not None:
        tensors[MEAN_ENTROPY] = assembly.mean_entropies()
    if assembly.reference_n is not None:
        tensors[REFERENCE] = assembly.reference_n
    if work.keep:
        tensors |= assembly.sums.state()
    return block.begin, write_sums(work.sums, block.begin, tensors, work.digest), read_bytes


def assemble(work: Work, block: Block) -> tuple[Assembly, int]:
    """The sums of one block over all teachers, and the bytes of logits that were read for them.

    Raises:
        DataError: A teacher's logits are damaged or not finite.
    """
    references = observe_all(work.add, [work.weighting] if work.weighting.compares else [], block)
    assembly = open_sums(work, block, references[0] if references else None)
    buffer, labels_n = bytearray(), block.labels(work.num_views)
    for opinions, apply in ((work.add, assembly.add), (work.remove, assembly.remove)):
        for opinion in opinions:
            logits_nc, heard_n = opinion.read(block.begin, block.end, buffer)
            with naming_source(opinion):
                apply(logits_nc, labels_n, heard_n)
    read_rows = len(block.labels_n) * (2 if work.weighting.compares else 1)
    return assembly, read_rows * sum(o.logits.row_bytes for o in (*work.add, *work.remove))


def open_sums(work: Work, block: Block, reference_n: Tensor | None) -> Assembly:
    """The sums that a block starts from: those of its base, or zero."""
    num_rows, first_row = len(block.labels_n) * work.num_views, block.begin * work.num_views
    assembly = Assembly(
        work.weighting, num_rows, work.num_classes, first_row=first_row, reference_n=reference_n
    )
    if block.base is not None:
        assembly.sums.restore(read_sums(block.base))
    return assembly


@contextmanager
def naming_source(opinion: Opinion) -> Iterator[None]:
    """Add the file of the logits to an error in their content."""
    try:
        yield
    except UkdError as error:
        raise DataError(
            f"{opinion.logits.path}: {error.problem}", expected=error.expected, action=error.action
        ) from error


def observe_all(opinions: Sequence[Opinion], weightings: Sequence[Weighting], block: Block) -> list[Tensor]:
    """The reference of each weighting over all teachers, whose logits are read once.

    Args:
        opinions: The teachers.
        weightings: Such as compare them.
        block: The rows.

    Raises:
        DataError: A teacher's logits are damaged or not finite.
    """
    if not weightings:
        return []
    num_views = opinions[0].num_views
    labels_n, first_row, buffer = block.labels(num_views), block.begin * num_views, bytearray()
    references = [torch.full((len(labels_n),), -torch.inf, dtype=torch.float64) for _ in weightings]
    for opinion in opinions:
        logits_nc, heard_n = opinion.read(block.begin, block.end, buffer)
        with naming_source(opinion):
            for weighting, reference_n in zip(weightings, references, strict=True):
                observe(weighting, logits_nc, labels_n, reference_n, heard_n, first_row=first_row)
    return references
