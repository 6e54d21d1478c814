"""Videos from anywhere get the logits that evaluation stores of the same videos in shards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.data.odd_videos import HEIGHT, WIDTH, film
from tests.finished_shards import finish
from tests.stages import trained_member
from ukd_dist.clip_config import Views
from ukd_dist.data.components import encode_sample
from ukd_dist.data.knowledge import LOGITS, logits_path, open_rows
from ukd_dist.data.shards import SPLITS, Sample, ShardSet
from ukd_dist.data.video import probe, read_frames
from ukd_dist.data.vp9 import Vp9Encoder
from ukd_dist.data_config import Codec, Encoding
from ukd_dist.errors import ResourceError, UkdError, UsageError
from ukd_dist.experiment import StudentMember, TeacherMember
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.evaluate import infer_student
from ukd_dist.stages.predict import OnUnreadable, find_videos, infer_videos, predict, rank
from ukd_dist.training.inference import infer
from ukd_dist.training.trained import TrainedNetwork, load_network

CPU = torch.device("cpu")
Trained = tuple[RunDirectory, list[TeacherMember | StudentMember]]


@pytest.fixture(scope="module")
def trained(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    return trained_member.build(tmp_path_factory.mktemp("run") / "root", shards)


@pytest.fixture(scope="module")
def originals(shards: ShardSet, videos: Path) -> list[Path]:
    """The files of the test rows, in their order."""
    paths = {path.stem: path for path in videos.glob("videos/*/*.mp4")}
    return [paths[key] for key in shards.rows["test"].keys]


def refuse(path: Path, error: UkdError) -> None:
    raise AssertionError(f"{path}: {error}")


def logits_of(directory: Path, paths: list[Path], tell: OnUnreadable = refuse) -> dict[int, torch.Tensor]:
    return dict(infer_videos(load_network(directory), paths, CPU, CPU, None, tell))


@pytest.mark.parametrize(
    ("modality", "views"), [("flow", Views()), ("rgb", Views(kind="mean", clips=2)), ("rgb", Views())]
)
def test_a_students_predictions_of_test_videos_are_its_stored_test_logits(
    trained: Trained,
    shards: ShardSet,
    originals: list[Path],
    modality: str,
    views: Views,
) -> None:
    run, members = trained
    (member,) = (m for m in members if isinstance(m, StudentMember) and m.settings.modality == modality)
    directory = run.student(member.id)
    infer_student(run.root, member, views)
    rows = shards.rows["test"]
    stored_nc = open_rows(logits_path(directory, "test"), LOGITS, rows, "test", len(shards.classes)).read()

    found = logits_of(directory, originals)

    assert list(found) == [0, 1, 2, 3]
    assert torch.equal(torch.stack(list(found.values())), stored_nc)
    assert stored_nc.std(dim=0).min() > 0


def test_a_teachers_predictions_are_the_mean_over_its_views(
    trained: Trained,
    shards: ShardSet,
    originals: list[Path],
) -> None:
    run, (teacher, *_) = trained
    assert isinstance(teacher, TeacherMember)
    directory = run.teacher(teacher.id)
    network = load_network(directory)
    wanted_nc = infer(network, shards, "test", teacher.settings, CPU, teacher.settings.views)

    assert torch.equal(torch.stack(list(logits_of(directory, originals).values())), wanted_nc)


def test_what_a_video_is_called_does_not_depend_on_the_others(
    trained: Trained, originals: list[Path]
) -> None:
    run, members = trained
    directory = run.student(members[1].id)
    together = logits_of(directory, originals)
    for number, path in enumerate(originals):
        torch.testing.assert_close(logits_of(directory, [path])[0], together[number], rtol=1e-5, atol=1e-5)


def test_unreadable_videos_are_told_and_the_others_go_on(
    trained: Trained, originals: list[Path], tmp_path: Path
) -> None:
    run, members = trained
    directory = run.student(members[1].id)
    text, cut = tmp_path / "text.mp4", tmp_path / "cut.mp4"
    text.write_text("no video")
    cut.write_bytes(originals[0].read_bytes()[:4000])
    told: dict[str, str] = {}

    paths = [text, originals[0], tmp_path / "none.mp4", cut, originals[1]]
    found = logits_of(directory, paths, lambda path, error: told.update({path.name: error.problem}))

    assert list(found) == [1, 4]
    assert list(told) == ["text.mp4", "none.mp4", "cut.mp4"]
    assert "not a readable video" in told["text.mp4"]
    assert told["none.mp4"] == f"{tmp_path}/none.mp4: No such file or directory"


def test_no_more_videos_are_stored_ahead_than_a_few_for_each_thread(trained: Trained, tmp_path: Path) -> None:
    """All are named before the first is asked for: reading on from the first tells of few of the others."""
    run, members = trained
    directory, told = run.student(members[1].id), list[Path]()
    video = tmp_path / "video.mp4"
    film()(video)
    paths = [video if number % 3 == 0 else tmp_path / f"{number}.mp4" for number in range(600)]

    made = infer_videos(load_network(directory), paths, CPU, CPU, 1, lambda path, _: told.append(path))

    assert next(made)[0] == 0
    assert 0 < len(told) < 100
    made.close()


@pytest.mark.parametrize("codec", ["copy", "jpeg"])
def test_shards_of_other_codecs_give_the_logits_of_their_own_videos(codec: Codec, tmp_path: Path) -> None:
    video = tmp_path / "scene.mp4"
    film(codec="libvpx-vp9")(video)
    network, shards = trained_on(video, codec, tmp_path)
    wanted_nc = infer(network, shards, "test", network.trained.settings, CPU)

    assert torch.equal(logits_of(network.trained.directory, [video])[0], wanted_nc[0])


def test_h264_that_a_cpu_cannot_have_copied_loses_nothing(tmp_path: Path) -> None:
    h264, same = tmp_path / "h264.mp4", tmp_path / "same.mp4"
    film()(h264)
    encoder = Vp9Encoder(WIDTH, HEIGHT, 30.0, crf=0)
    for frame in read_frames(h264, WIDTH, HEIGHT):
        encoder.write(frame)
    same.write_bytes(encoder.finish())
    directory = trained_on(same, "copy", tmp_path)[0].trained.directory

    assert torch.equal(logits_of(directory, [h264])[0], logits_of(directory, [same])[0])


def trained_on(video: Path, codec: Codec, folder: Path) -> tuple[TrainedNetwork, ShardSet]:
    """A student of rgb, and shards of a codec, whose only test video is this one."""
    info, content = probe(video), []
    for split in SPLITS[::2]:
        sample = Sample(split, 0, split, 0, "Walk", "", info.frames, info.fps, info.width, info.height)
        content.append((sample, encode_sample(sample, video, ("rgb",), Encoding(), codec)))
    shards = finish(folder / "shards", content, ("Walk", "Wave"), codec=codec)
    run, (_, student, _) = trained_member.build(folder / "run", shards)
    return load_network(run.student(student.id)), shards


def test_a_prediction_names_the_five_likeliest_classes(
    trained: Trained,
    shards: ShardSet,
    originals: list[Path],
) -> None:
    run, members = trained
    directory = run.student(members[1].id)
    probs_c = logits_of(directory, originals[:1])[0].double().softmax(dim=0)

    (prediction,) = predict(directory, [str(originals[0])], device="cpu", on_unreadable=refuse)

    order = probs_c.argsort(descending=True)[:5].tolist()
    assert prediction.video == str(originals[0])
    assert [share.class_name for share in prediction.top] == [shards.classes[c] for c in order]
    assert [share.probability for share in prediction.top] == pytest.approx(probs_c[order].tolist())


def test_of_two_classes_both_are_named() -> None:
    shares = rank(torch.tensor([0.0, 1.0]), ("Walk", "Wave"))
    assert [share.class_name for share in shares] == ["Wave", "Walk"]
    assert sum(share.probability for share in shares) == pytest.approx(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(trained: Trained, originals: list[Path]) -> None:
    run, members = trained
    made = predict(run.student(members[1].id), [str(originals[0])], device="cuda", on_unreadable=refuse)
    with pytest.raises(ResourceError, match="a GPU is asked for, and this machine has none"):
        next(made)


# --- Which videos ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.mp4",
        "a.AVI",
        "notes.txt",
        ".hidden.mp4",
        "deep/er/c.webm",
        "deep/[1].mp4",
        ".git/d.mp4",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["b.mp4", "notes.txt", "gone.mp4"], ["b.mp4", "notes.txt", "gone.mp4"]),
        (["."], ["a.AVI", "b.mp4", "deep/[1].mp4", "deep/er/c.webm"]),
        (["*.mp4", "b.mp4"], ["b.mp4"]),
        (["**/*.webm"], ["deep/er/c.webm"]),
        (["de*"], ["deep/[1].mp4", "deep/er/c.webm"]),
        (["deep/[1].mp4"], ["deep/[1].mp4"]),
    ],
    ids=str,
)
def test_files_folders_and_patterns_name_videos_once(
    folder: Path, places: list[str], names: list[str]
) -> None:
    assert [str(path) for path in find_videos(places)] == names
    absolute = [str(folder / place) for place in places]
    assert find_videos(absolute) == [folder / name for name in names]


@pytest.mark.parametrize("place", ["*.mov", "empty"])
def test_a_place_without_videos_is_named(folder: Path, place: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(
        UsageError, match=rf"^no video in {re.escape(place)}; expected files that end in \.mp4"
    ):
        find_videos(["b.mp4", place])
