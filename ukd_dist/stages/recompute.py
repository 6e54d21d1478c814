"""`ukd verify --recompute`: a sample of a teacher's stored logits against what its weights say of the shards.

Checksums tell that a file is what was written; this tells that what was written is the network's opinion of
those videos in those views. Nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from ukd_dist import manifest
from ukd_dist.data.clips import decode_clips
from ukd_dist.data.knowledge import LOGITS, logits_name, open_finished
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.data.views import stored_views
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.experiment import Experiment
from ukd_dist.manifest import Manifest
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.imports import IMPORTED
from ukd_dist.stages.verify import Verdict
from ukd_dist.training.inference import WEIGHTS, load_weights
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Teacher

# Greatest difference, as a share of the row's largest logit (or of 1, where all are smaller).
# On CPUs only the order of sums differs, with the clips in a batch and the processor's kernels: nothing in
# the same batches, in others 8e-7 at most where it was tried. On GPUs (not tried) convolutions round what
# they are given to TF32, 5e-4 each, and frames resized there may differ by a grey level, which gamma spreads.
CPU_TOLERANCE, GPU_TOLERANCE = 1e-4, 5e-2


def recompute(
    run: RunDirectory, experiment: Experiment, shards: ShardSet, verdict: Verdict, *, num_rows: int, seed: int
) -> Verdict:
    """Recompute some of the logits of a directory whose files are sound.

    Args:
        run: The run directory.
        experiment: Says with which resources its teachers work.
        shards: The run's.
        verdict: What was found of the directory.
        num_rows: How many rows, over all splits; all of them where there are fewer.
        seed: Of the choice of rows, which differ from teacher to teacher.

    Returns:
        The verdict, with what was recomputed; as it was where the directory is no teacher's with weights.
    """
    directory = run.root / verdict.directory
    found = manifest.read(directory)
    if verdict.problem or found is None or found.kind != "teacher" or found.settings.get(IMPORTED):
        return verdict
    if WEIGHTS not in found.present:
        return replace(verdict, note="not recomputed: its weights were dropped")
    try:
        settings = _settings(directory.name, found, experiment)
        sample = _Sample(directory, found, settings, shards)
        return sample.compare(verdict, num_rows, seed)
    except ValidationError:
        return replace(verdict, note="not recomputed: its settings are of another version")
    except (DataError, MismatchError) as error:
        return replace(verdict, problem=error.problem)


class _Sample:
    """One teacher's network beside what it said."""

    def __init__(self, directory: Path, found: Manifest, settings: Teacher, shards: ShardSet) -> None:
        self._directory, self._settings, self._shards = directory, settings, shards
        self._splits = [split for split in shards.splits if logits_name(split) in found.present]
        on_gpu = bool(settings.resources.gpus)
        self._device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
        self._tolerance = GPU_TOLERANCE if on_gpu else CPU_TOLERANCE
        model = build_network(settings, len(shards.classes))
        load_weights(model, directory / WEIGHTS)
        self._model = model.to(self._device).eval()

    def compare(self, verdict: Verdict, num_rows: int, seed: int) -> Verdict:
        """The verdict with the rows that were recomputed, and the first that differs too much."""
        chosen = self._choose(num_rows, seed)
        problem, worst = "", 0.0
        for split, rows_n in chosen.items():
            stored, computed = self._stored(split, rows_n), self._computed(split, rows_n)
            differences_n = _differences(stored, computed)
            worst = max(worst, float(differences_n.max()))
            wrong = (~(differences_n <= self._tolerance)).nonzero().flatten().tolist()
            if wrong and not problem:
                row = int(rows_n[wrong[0]])
                problem = (
                    f"{self._directory / logits_name(split)}: {len(wrong)} of {len(rows_n)} recomputed rows "
                    f"differ, first row {row} ('{self._shards.rows[split].keys[row]}') by "
                    f"{float(differences_n[wrong[0]]):.2g} of its largest logit"
                )
        rows = sum(map(len, chosen.values()))
        return replace(verdict, recomputed=rows, difference=worst, problem=problem)

    def _choose(self, num_rows: int, seed: int) -> dict[SplitName, npt.NDArray[np.int64]]:
        """Rows of each split, rising."""
        every = [(split, row) for split in self._splits for row in range(len(self._shards.rows[split]))]
        random = np.random.default_rng([seed, *self._directory.name.encode()])
        numbers = random.choice(len(every), size=min(num_rows, len(every)), replace=False)
        chosen: dict[SplitName, list[int]] = {}
        for number in sorted(numbers.tolist()):
            split, row = every[number]
            chosen.setdefault(split, []).append(row)
        return {split: np.array(rows, np.int64) for split, rows in chosen.items()}

    def _stored(self, split: SplitName, rows_n: npt.NDArray[np.int64]) -> torch.Tensor:
        rows, name, classes = self._shards.rows[split], logits_name(split), len(self._shards.classes)
        array = open_finished(self._directory, name, LOGITS, rows, split, classes)
        return torch.cat([array.read(row, row + 1) for row in rows_n.tolist()]).double()

    def _computed(self, split: SplitName, rows_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """As `inference.infer` of these rows: `[n, classes]`, of random views `[n, views, classes]`."""
        settings, rows = self._settings, self._shards.rows[split]
        views = settings.views if split == "train" else settings.views.evaluated
        seen, numbers = np.repeat(rows_n, views.count), np.tile(np.arange(views.count), len(rows_n))
        parts = range(0, len(seen), settings.batch_size)
        batches = (
            stored_views(
                seen[n : n + parts.step],
                numbers[n : n + parts.step],
                rows.frames[seen[n : n + parts.step]],
                settings.clip,
                views,
                rows.portrait[seen[n : n + parts.step]],
            )
            for n in parts
        )
        clips = decode_clips(
            self._shards,
            split,
            settings.modality,
            settings.clip,
            batches,
            batch_size=settings.batch_size,
            device=self._device,
            decoder=torch.device("cpu") if settings.resources.decode == "cpu" else None,
            num_threads=max(1, int(settings.resources.cpus)),
        )
        with torch.inference_mode():
            logits = torch.cat([self._model(batch.clips_bcthw).double().cpu() for batch in clips])
        logits_nvc = logits.reshape(len(rows_n), views.count, -1)
        return logits_nvc if views.kind == "random" else logits_nvc.mean(dim=1)


def _differences(stored: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:
    """Of each row the greatest difference, as a share of its largest logit or of 1."""
    stored, computed = stored.flatten(1), computed.flatten(1)
    return (stored - computed).abs().amax(dim=1) / computed.abs().amax(dim=1).clamp(min=1.0)


def _settings(teacher: str, found: Manifest, experiment: Experiment) -> Teacher:
    """The teacher's settings, with the resources that the experiment gives it."""
    members = {member.id: member.settings for member in experiment.teachers}
    return members.get(teacher) or Teacher.model_validate(found.settings)
