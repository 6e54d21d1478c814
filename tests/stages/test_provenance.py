"""Whose opinions the targets hold: on the page, in opinions.csv, and of many teachers in sums."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.stages import fake_run, fake_store
from tests.stages.page import page_of
from ukd_dist import manifest
from ukd_dist.data.knowledge import LOGITS, logits_path, open_rows
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.sums import SUMS
from ukd_dist.errors import DataError
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble_block
from ukd_dist.stages.opinions import describe, tally_block
from ukd_dist.stages.provenance import (
    MOST_HEARD,
    MOST_SHOWN,
    OPINIONS_CSV,
    Origin,
    Panel,
    Voice,
    read_origins,
    rule,
    write_origins,
)
from ukd_dist.stages.reduce import OPINIONS, weighting_of
from ukd_dist.target_config import Target

FOLDS = "  folds: {{method: pkd, rows: out_of_fold, teachers: {{fold: [0, 1]}}}}\nstudents:\n"
MANY = fake_run.EXPERIMENT.replace("[rgb, flow]}}}}", "[rgb, flow], seed: [0, 1, 2, 3, 4, 5, 6]}}}}")


def with_folds(text: str) -> str:
    """Each teacher twice, where it left out the one half of the rows and the other."""
    return text.replace("synthetic", "synthetic\n  folds: {{count: 2}}", 1).replace(
        "modality: [rgb, flow]", "modality: [rgb, flow], fold: [0, 1]"
    )


def origin(run: RunDirectory, experiment: Experiment, name: str) -> Origin:
    (found,) = [o for o in read_origins(run, experiment) if o.target.name == name]
    return found


def opinions(run: RunDirectory, experiment: Experiment, name: str) -> dict[str, Any]:
    (target,) = [t for t in experiment.targets if t.name == name]
    found: dict[str, Any] = json.loads((run.target(target.id) / OPINIONS).read_text())
    return found


def percents(values: list[float], digits: int) -> list[str]:
    return [f"{100 * value:.{digits}f}" for value in values]


def test_the_page_says_of_every_teacher_what_the_reduction_found(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    rows = page_of(root).sections["targets"]
    for name in ("ukd", "avg2"):
        for entry in opinions(run, experiment, name)["teachers"]:
            top1, agreement = percents([entry["top1"], entry["agreement"]], 1)
            figures = [*percents([entry["share"]], 1), top1, agreement, f"{entry['entropy']:.2f}"]
            assert [entry["id"], *figures, *percents(entry["share_per_class"], 0)] in rows


def test_the_page_says_how_a_target_was_made(root: Path) -> None:
    text = page_of(root).text
    entropy = opinions(RunDirectory(root), fake_run.experiment(root), "ukd")["weight_entropy"]
    about = "4 teachers · 264 training clips · entropy of the weights"
    assert f"ukdpkd · h 0.99 · logits · {about} {entropy:.2f} of at most 1.39 nats" in text
    assert f"avg2avg · probs at τ 60 · {about} 1.39 of at most 1.39 nats" in text


def test_in_sample_accuracy_is_told_from_that_of_a_target_out_of_fold(tmp_path: Path) -> None:
    text = with_folds(fake_run.EXPERIMENT).replace("students:\n", FOLDS, 1)
    run = fake_run.build(tmp_path, text)
    rows = page_of(tmp_path, text).sections["targets"]
    heads = [row for row in rows if row and row[0] == "teacher"]
    assert [("top-1, %in-sample" in row, "top-1, %out of fold" in row) for row in heads] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    entries = opinions(run, fake_run.experiment(tmp_path, text), "folds")["teachers"]
    assert [row[2] for row in rows[-len(entries) :]] == [str(entry["heard"]) for entry in entries]


def test_a_single_teacher_has_no_table_of_classes(tmp_path: Path) -> None:
    single = "  one: {{method: single, teachers: {{arch: x3d_tiny, modality: flow}}}}\nstudents:\n"
    text = fake_run.EXPERIMENT.replace("students:\n", single, 1)
    fake_run.build(tmp_path, text)
    page = page_of(tmp_path, text)
    assert "onesingle · logits · 1 teacher · 264 training clips" in page.text
    teacher, share, *figures = page.sections["targets"][-1]
    assert (teacher.startswith("x3d_tiny-flow-s0-"), share, len(figures)) == (True, "100.0", 3)


def test_a_target_that_is_not_finished_or_tells_nothing_is_marked(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path), fake_run.experiment(tmp_path)
    ukd, avg2 = experiment.targets
    (run.target(ukd.id) / manifest.FILENAME).unlink()
    manifest.commit(run.target(avg2.id), "target", {}, {}, [])
    page = page_of(tmp_path)
    assert page.sections["targets"] == []
    assert "ukdpkd · h 0.99 · logits · 4 teachers interrupted" in page.text
    assert "avg2avg · probs at τ 60 · 4 teachers its teachers' shares were not kept" in page.text


def test_an_experiment_without_targets_has_no_such_section(tmp_path: Path) -> None:
    head, _, rest = fake_run.EXPERIMENT.partition("targets:\n")
    undistilled = rest.partition("students:\n")[2].replace("targets: ukd, temperature: 20", "targets: none")
    text = f"{head}students:\n{undistilled.partition('    - {{name: avg2')[0]}"
    assert "Where the targets came from" not in page_of(tmp_path, text).text


def test_altered_opinions_are_named(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path), fake_run.experiment(tmp_path)
    path = run.target(experiment.targets[0].id) / OPINIONS
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(DataError, match=rf"^{path} was altered; expected .*; remove {path.parent} to make"):
        read_origins(run, experiment)


def test_the_csv_has_a_row_of_every_target_teacher_and_class(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path), fake_run.experiment(tmp_path)
    (run.target(experiment.targets[1].id) / manifest.FILENAME).unlink()
    page_of(tmp_path)
    with (run.report / OPINIONS_CSV).open() as file:
        found = [
            (r["target"], r["teacher"], r["class"], float(r["share"]), float(r["top1"]))
            for r in csv.DictReader(file)
        ]
    assert found == [
        (experiment.targets[0].id, entry["id"], *columns)
        for entry in opinions(run, experiment, "ukd")["teachers"]
        for columns in zip(fake_run.CLASSES, entry["share_per_class"], entry["top1_per_class"], strict=True)
    ]


def test_the_csv_leaves_a_class_without_clips_empty(tmp_path: Path) -> None:
    (target, _) = fake_run.experiment(tmp_path).targets
    silent = Voice("a", 1, 3, 1.0, 0.5, 1.0, 0.1, (1.0, None), (0.5, None))
    run = RunDirectory(tmp_path)
    write_origins(run, [Origin(target, "pkd", False, 3, 0.0, ("Jump", "Run"), (silent,))])
    lines = (run.report / OPINIONS_CSV).read_text().splitlines()
    assert lines[1:] == [f"{target.id},a,Jump,1.0,0.5", f"{target.id},a,Run,,"]


def test_many_teachers_are_summed_by_network_and_modality(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path, MANY), fake_run.experiment(tmp_path, MANY)
    members = {t.id: t.settings for t in experiment.teachers}
    entries = opinions(run, experiment, "ukd")["teachers"]
    together, _ = origin(run, experiment, "ukd").panels
    assert len(entries) == 28 > MOST_SHOWN
    assert [v.label for v in together.voices] == [
        f"{arch} {modality}" for arch in ("slowfast_tiny", "x3d_tiny") for modality in ("rgb", "flow")
    ]
    for voice in together.voices:
        own = [e for e in entries if f"{members[e['id']].arch} {members[e['id']].modality}" == voice.label]
        assert voice.teachers == len(own) == 7
        assert voice.share == pytest.approx(sum(e["share"] for e in own))
        assert voice.share_per_class == pytest.approx(np.sum([e["share_per_class"] for e in own], axis=0))
        for name in ("top1", "agreement", "entropy"):
            assert getattr(voice, name) == pytest.approx(np.mean([e[name] for e in own]))


def test_of_many_teachers_the_page_shows_the_most_heard(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path, MANY), fake_run.experiment(tmp_path, MANY)
    shares = {e["id"]: e["share"] for e in opinions(run, experiment, "ukd")["teachers"]}
    loudest = sorted(shares, key=lambda teacher: -shares[teacher])[:MOST_HEARD]
    rows = page_of(tmp_path, MANY).sections["targets"]
    ids = [row[0] for row in rows if row and row[0] in shares]
    assert ids[:MOST_HEARD] == loudest
    assert len(ids) == 2 * MOST_HEARD
    with (run.report / OPINIONS_CSV).open() as file:
        assert {row["teacher"] for row in csv.DictReader(file)} == shares.keys()


def test_teachers_from_elsewhere_are_a_group_of_their_own_among_many(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path, MANY), fake_run.experiment(tmp_path, MANY)
    *fleet, first, second = experiment.teachers
    elsewhere = dataclasses.replace(experiment, teachers=tuple(fleet), imported=(first.id, second.id))
    together, _ = origin(run, elsewhere, "ukd").panels
    assert [(v.label, v.teachers) for v in together.voices][-2:] == [("x3d_tiny flow", 5), ("imported", 2)]


def test_accuracy_of_several_is_weighed_by_the_rows_that_each_is_heard_on(tmp_path: Path) -> None:
    text = with_folds(MANY).replace("method: pkd", "method: pkd, rows: out_of_fold")
    run, experiment = fake_run.build(tmp_path, text), fake_run.experiment(tmp_path, text)
    first, *_ = origin(run, experiment, "ukd").panels[0].voices
    entries = opinions(run, experiment, "ukd")["teachers"]
    own = [entry for entry in entries if entry["id"].startswith("slowfast_tiny-rgb-")]
    assert first.teachers == len(own) == 14
    heard = [entry["heard"] for entry in own]
    assert len(set(heard)) > 1
    assert first.heard == sum(heard)
    assert first.top1 == pytest.approx(np.average([entry["top1"] for entry in own], weights=heard))


def test_what_a_reduction_leaves_is_read(tmp_path: Path) -> None:
    store = fake_store.build(tmp_path, teachers=MOST_SHOWN + 1, rows=60, classes=5)
    run, experiment = RunDirectory(tmp_path), store.experiment("{avg: {method: avg}}")
    reduce_here(run, experiment)
    together, loudest = origin(run, experiment, "avg").panels
    (everyone,) = together.voices
    correct = store.logits_knc.argmax(dim=2) == store.labels_n
    assert (everyone.teachers, everyone.heard) == (MOST_SHOWN + 1, 60 * (MOST_SHOWN + 1))
    assert everyone.share == pytest.approx(1.0)
    assert everyone.top1 == pytest.approx(correct.double().mean().item())
    assert [voice.share for voice in loudest.voices] == pytest.approx([1 / (MOST_SHOWN + 1)] * MOST_HEARD)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_no_bar_is_fuller_than_full(shares: list[float]) -> None:
    panel = Panel("", tuple(Voice("", 1, 1, s, None, None, None, (s, None)) for s in shares))
    assert 0 < panel.top <= 1
    assert max(shares) <= panel.top


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "pkd", "h": 0.9}, "pkd · h 0.9 · logits"),
        ({"method": "gtd"}, "gtd · floor 0.0001 nats · logits"),
        ({"method": "avg1", "space": "probs", "temperature": 10}, "avg1 · probs at τ 10"),
        ({"method": "best", "rows": "out_of_fold"}, "best · logits · out of fold"),
    ],
)
def test_the_settings_that_matter_are_said_and_no_others(settings: dict[str, Any], said: str) -> None:
    assert rule(Target.model_validate(settings)) == said


def reduce_here(run: RunDirectory, experiment: Experiment) -> None:
    """What `ukd reduce` does with one target of one block, in this process."""
    (target,) = experiment.targets
    shards, directory = ShardSet(run.shards, check=False), run.target(target.id)
    rows = shards.rows["train"]
    everyone = tuple(
        Opinion(open_rows(logits_path(run.teacher(t), "train"), LOGITS, rows, "train", len(shards.classes)))
        for t in target.teachers
    )
    weighting = weighting_of(target.settings)
    work = Work(weighting, len(shards.classes), 1, everyone, (), directory / SUMS, "digest", keep=False)
    block = Block(0, torch.from_numpy(rows.labels))
    _, sums, _ = assemble_block(work, block)
    table = describe(tally_block(everyone, work, sums, block), target.teachers, shards.classes)
    manifest.write_atomically(directory / OPINIONS, json.dumps(table).encode())
    manifest.commit(directory, "target", {}, {}, [OPINIONS])
