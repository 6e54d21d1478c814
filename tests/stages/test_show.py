"""What `ukd data show` says of shards, and what it draws."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.conftest import ENCODING
from ukd_dist import manifest
from ukd_dist.cli import app
from ukd_dist.data.shards import SAMPLES, Sample, ShardSet, samples_csv
from ukd_dist.data.video import probe
from ukd_dist.data_config import Modality
from ukd_dist.errors import UsageError
from ukd_dist.stages.contact_sheet import draw_contact_sheet, flow_colours, write_contact_sheet
from ukd_dist.stages.shard import write_one
from ukd_dist.stages.show import describe, draw_rows, measure, open_shards, pictures

HEADER, LABELS, STEP, TILE = 82, 172, 134, 128


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = HEADER + row * STEP, LABELS + column * STEP
    return sheet[top : top + TILE, left : left + TILE].astype(np.float64)


def luma_of_middle(shards: ShardSet, row: int) -> float:
    """Mean luma, 0..255, of the centre of the frame after a third of a stored video, by another decoder."""
    content = shards.read("train", row, "rgb.mp4").tobytes()
    path = shards.directory.parent / "one.mp4"
    path.write_bytes(content)
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(video=0)]
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    left = (width - height) // 2
    limited = frames[len(frames) // 3][:height, left : left + height]
    return float((limited.astype(np.float64) - 16).mean() * 255 / 219)


def test_the_figures_are_those_of_the_table(shards: ShardSet) -> None:
    figures = measure(shards)
    assert figures.clips == {"train": 8, "test": 4}
    assert figures.frames == sum(sample.frames for sample in shards.samples)
    assert figures.fps == {"30": 12}
    assert figures.sizes == {"86x64": 12}
    assert {c.name: c.clips["train"] for c in figures.classes} == {
        name: sum(s.class_name == name and s.split == "train" for s in shards.samples)
        for name in shards.classes
    }
    in_tars: Counter[str] = Counter()
    for tar in shards.directory.glob("*.tar"):
        with tarfile.open(tar) as members:
            in_tars.update({member.name: member.size for member in members})
    assert sum(figures.bytes.values()) == in_tars.total()
    assert figures.bytes["rgb.mp4"] == sum(n for name, n in in_tars.items() if name.endswith(".rgb.mp4"))


def test_brightness_is_measured_before_gamma(shards: ShardSet) -> None:
    rgb = pictures(shards, "train", "rgb", np.array([3, 0]), 64)
    measured = (rgb @ (0.299, 0.587, 0.114)).mean(axis=(2, 3))[:, 0] * 255
    assert measured == pytest.approx([luma_of_middle(shards, row) for row in (3, 0)], abs=0.5)
    assert measure(shards).mean_luma == pytest.approx(measured.mean(), abs=10)


def test_a_class_without_a_training_video_has_no_brightness_and_no_row(shards: ShardSet) -> None:
    figures = measure(shards)
    without = [c for c in figures.classes if not c.clips["train"]]
    assert without
    assert all(c.mean_luma is None for c in without)
    rows = len(figures.classes) - len(without)
    assert draw_contact_sheet(shards, gamma=3.0).shape[0] == HEADER + rows * STEP - 6 + 12


def test_each_row_shows_the_stored_frame_and_its_correction(shards: ShardSet) -> None:
    sheet = draw_contact_sheet(shards, gamma=3.0)
    drawn = [draw_rows(shards, "train", label, 1, 0) for label in range(len(shards.classes))]
    for place, row in enumerate(np.concatenate(drawn)):
        stored, corrected = tile(sheet, place, 0), tile(sheet, place, 1)
        grey = cv2.cvtColor(stored.astype(np.uint8), cv2.COLOR_BGR2GRAY)
        assert grey.mean() == pytest.approx(luma_of_middle(shards, int(row)), abs=1)
        assert corrected == pytest.approx((stored / 255) ** (1 / 3) * 255, abs=25)
        assert corrected.mean() == pytest.approx(((stored / 255) ** (1 / 3) * 255).mean(), abs=4)


def test_the_seed_draws_the_videos_and_the_same_seed_the_same_ones(shards: ShardSet) -> None:
    assert np.array_equal(draw_contact_sheet(shards, gamma=3.0), draw_contact_sheet(shards, gamma=3.0))
    assert len({tuple(draw_rows(shards, "train", 0, 1, seed)) for seed in range(20)}) > 1
    drawn = {tuple(draw_rows(shards, "train", label, 9, 1)) for label in range(len(shards.classes))}
    assert sorted(row for rows in drawn for row in rows) == list(range(8))


@pytest.mark.parametrize(("modality", "columns", "bright"), [("rgb", 4, True), ("flow", 2, False)])
def test_shards_of_one_modality_show_what_they_have(
    videos: Path, tmp_path: Path, modality: Modality, columns: int, bright: bool
) -> None:
    shards = of_one_modality(tmp_path, sorted((videos / "videos").glob("*/*.mp4"))[0], modality)
    figures = measure(shards)
    assert (figures.mean_luma is not None) == bright
    assert max(map(len, describe(figures).splitlines())) <= 80
    sheet = draw_contact_sheet(shards, gamma=3.0)
    assert sheet.shape == (HEADER + TILE + 12, LABELS + columns * STEP - 6 + 12, 3)


def of_one_modality(directory: Path, video: Path, modality: Modality) -> ShardSet:
    info = probe(video)
    sample = Sample("train", 0, video.stem, 0, "Drink", "", info.frames, info.fps, 86, 64)
    write_one(directory / "train-000000.tar", [(sample, video)], (modality,), ENCODING, "vp9")
    manifest.write_atomically(directory / SAMPLES, samples_csv([sample]))
    settings = {"classes": ["Drink"], "encoding": ENCODING.model_dump(mode="json")}
    files = [SAMPLES, "train-000000.tar", "train-000000.idx"]
    manifest.commit(directory, "shards", settings, {}, files)
    return ShardSet(directory)


def test_flow_to_the_right_is_red_to_the_left_cyan_and_rest_is_black() -> None:
    flow = np.array([[3, 0], [-3, 0], [0, 0], [1.5, 0], [90, 0]], np.float32)
    colours = flow_colours(flow, 3.0)[:, ::-1].tolist()
    assert colours == [[255, 0, 0], [0, 255, 255], [0, 0, 0], [128, 0, 0], [255, 0, 0]]


def test_the_text_fits_a_terminal_of_80_columns_whatever_there_is(shards: ShardSet) -> None:
    figures = measure(shards)
    long = replace(
        figures,
        clips={"train": 234_619, "validation": 19_000, "test": 19_761},
        sizes={f"{n}x{n + 100}": 1000 - n for n in range(100, 400)},
        rejects=dict.fromkeys(("size_changes", "unreadable", "truncated", "no_frames", "no_video"), 1000),
        classes=tuple(
            replace(c, name=c.name * 12, clips={"train": 1, "validation": 2, "test": 3})
            for c in figures.classes
        ),
    )
    for text in (describe(figures), describe(long)):
        assert max(map(len, text.splitlines())) <= 80
    assert "100x200 (900)" in describe(long)
    assert "296 more" in describe(long)


def test_shards_are_found_in_a_run_and_by_themselves(shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(shards.directory)
    assert open_shards(tmp_path).digest == open_shards(shards.directory).digest
    with pytest.raises(UsageError, match="holds no finished shards"):
        open_shards(tmp_path / "nothing")


def test_the_command_prints_the_figures_and_writes_a_png(shards: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["data", "show", str(shards.directory), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == {"train": 8, "test": 4}
    written = cv2.imdecode(np.frombuffer(out.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(written, draw_contact_sheet(shards, gamma=3.0))


def test_a_sheet_that_is_no_png_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sheet.jpg is no PNG"):
        write_contact_sheet(shards, tmp_path / "sheet.jpg", gamma=3.0)
