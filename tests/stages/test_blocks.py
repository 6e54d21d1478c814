"""A block of the reduction: who is heard on which row, whatever the folds, and what is refused."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.method import oracle
from ukd_dist.data.knowledge import LOGITS, open_rows, write_logits
from ukd_dist.data.shards import Rows, Sample
from ukd_dist.errors import DataError
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble, divide

ROWS, CLASSES = 9, 4
SAMPLES = Rows([Sample("train", n, f"v{n}", n % CLASSES, "a", "", 30, 30.0, 64, 48) for n in range(ROWS)])


def work(
    folder: Path, logits_knc: np.ndarray, trained_on_kn: np.ndarray, covers_kn: np.ndarray, method: str
) -> Work:
    opinions = []
    for k, logits_nc in enumerate(logits_knc):
        path = folder / f"{k}.safetensors"
        checks = write_logits(
            path,
            torch.from_numpy(logits_nc),
            SAMPLES,
            "train",
            view="centre",
            trained_on=torch.from_numpy(trained_on_kn[k]),
            covers=torch.from_numpy(covers_kn[k]),
        )
        opinions.append(Opinion(open_rows(path, LOGITS, SAMPLES, "train", CLASSES, checks), True))
    weighting = Weighting(method=method)  # type: ignore[arg-type]
    return Work(weighting, CLASSES, 1, tuple(opinions), (), folder, "", keep=False)


marks = arrays(np.bool_, (3, ROWS))


@given(
    arrays(np.float32, (3, ROWS, CLASSES), elements=st.floats(-20, 20, width=32)),
    marks,
    marks,
    st.sampled_from(["pkd", "gtd", "avg", "entropy", "confidence"]),
    st.integers(0, ROWS - 1),
)
@settings(deadline=None, max_examples=60)
def test_no_row_is_taught_by_a_teacher_that_was_trained_on_it(
    logits_knc: np.ndarray, trained_on_kn: np.ndarray, covers_kn: np.ndarray, method: str, begin: int
) -> None:
    heard_kn = covers_kn & ~trained_on_kn
    labels = SAMPLES.labels[begin:]
    with tempfile.TemporaryDirectory() as folder:
        job = work(Path(folder), logits_knc, trained_on_kn, covers_kn, method)
        assembly, _ = assemble(job, Block(begin, torch.from_numpy(labels)))
    assert assembly.sums.opinions.tolist() == heard_kn[:, begin:].sum(axis=0).tolist()
    if not heard_kn[:, begin:].any(axis=0).all():
        with pytest.raises(DataError, match="no teacher covers"):
            assembly.finish()
        return
    expected = oracle.target(
        logits_knc[:, begin:].astype(np.float64), labels, heard_kn[:, begin:], method=method
    )
    np.testing.assert_allclose(assembly.finish().numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_logit_that_cannot_be_weighed_is_refused_by_its_file(value: float, tmp_path: Path) -> None:
    none, everywhere = np.zeros((1, ROWS), np.bool_), np.ones((1, ROWS), np.bool_)
    job = work(tmp_path, np.zeros((1, ROWS, CLASSES), np.float32), none, everywhere, "pkd")
    array = job.add[0].logits
    with array.path.open("r+b") as file:
        file.seek(array.place(6))
        file.write(np.float32(value).tobytes())
    unchecked = Opinion(open_rows(array.path, LOGITS, SAMPLES, "train", CLASSES))
    job = Work(job.weighting, CLASSES, 1, (unchecked,), (), tmp_path, "", keep=False)
    what = "out of range" if value == 1e30 else "NaN or infinite"
    with pytest.raises(DataError, match=f"^{array.path}: 1 logits are {what}, the first in row 6; expected"):
        assemble(job, Block(0, torch.from_numpy(SAMPLES.labels)))


@given(st.integers(1, 3_000), st.integers(1, 3_000))
def test_blocks_hold_every_row_once_and_travel_with_their_own_labels_alone(rows: int, size: int) -> None:
    blocks = divide(torch.arange(rows), range(0, rows, size), {0: Path("sums")})
    assert torch.equal(torch.cat([block.labels_n for block in blocks]), torch.arange(rows))
    assert [block.end for block in blocks] == [*(block.begin for block in blocks[1:]), rows]
    assert [block.base for block in blocks] == [Path("sums"), *[None] * (len(blocks) - 1)]
    assert all(len(pickle.dumps(block)) < 8 * size + 1_000 for block in blocks)
