"""The whole way on a GPU: NVDEC decodes, teachers share the device, the student's rank uses NCCL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ukd_dist import pipeline
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.report import results_rows

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.cluster,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


# NVDEC takes no VP9 below 128 pixels; H.264 is stored as it comes, 320x240.
CODECS = {"vp9": "data.encoding.short_side=192", "copy": "data.encoding.short_side=null"}


@pytest.mark.parametrize("codec", CODECS)
def test_the_tiny_experiment_runs_on_a_gpu_and_counts_its_memory(codec: str, tmp_path: Path) -> None:
    experiment = pipeline.load(
        TINY,
        [
            f"root={tmp_path}/run",
            f"data.codec={codec}",
            CODECS[codec],
            "teachers.defaults.resources={cpus: 2, gpus: 0.5}",
            "students.defaults.resources={cpus: 2, gpus: 1}",
            "students.defaults.workers=1",
            "cluster.local_nodes=1",
        ],
    )

    pipeline.run(experiment, progress=Progress())

    run = RunDirectory(experiment.root)
    assert len(results_rows(run, experiment)) == 4
    for student in experiment.students:
        line = read_history(run.student(student.id))[-1]
        assert 0 < line["peak_memory_bytes"] < 2**32, json.dumps(line)
