"""A folder of class folders: what is found, how it is parted, and how mistakes in it are answered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd_dist.data.sources import Source, read_source
from ukd_dist.data_config import Data
from ukd_dist.errors import UkdError

CLASSES = ("Run", "Sit", "Walk")


def add(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(folder: Path, share: float = 0.3, by: str = "group", seed: int = 0, **other: object) -> Source:
    split = {"test": share, "by": by, "seed": seed}
    return read_source(Data.model_validate({"source": "folder", "videos": folder, "split": split, **other}))


def refusal(folder: Path, share: float = 0.3, by: str = "random", **other: object) -> str:
    with pytest.raises(UkdError) as raised:
        read(folder, share, by, **other)
    return str(raised.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, of each five groups of four videos in ARID's names."""
    add(tmp_path, *(f"{name}/{name}_{g}_{n}.mp4" for name in CLASSES for g in range(5) for n in range(4)))
    return tmp_path


def keys(source: Source) -> list[list[str]]:
    return [[video.key for video in videos] for videos in (source.train, source.validation, source.test)]


def test_folders_are_classes_in_the_order_of_their_names(folder: Path) -> None:
    source = read(folder)
    assert source.classes == source.listed_labels == CLASSES
    assert {(v.label, v.path.parent.name) for v in (*source.train, *source.test)} == {*enumerate(CLASSES)}


def test_videos_are_found_at_any_depth_and_in_every_container(tmp_path: Path) -> None:
    inner = ("a.mp4", "x/b.AVI", "x/y/c.mkv", "d.webm", "x/e.mov")
    beside = ("notes.txt", "f.jpg", "._a.mp4", ".cache/g.mp4")
    add(tmp_path, *(f"{name}/{file}" for name in ("Run", "Sit") for file in (*inner, *beside)))
    add(tmp_path, ".hidden/a.mp4", "README.md")
    source = read(tmp_path, by="random")
    found = {video.path.relative_to(tmp_path).as_posix() for video in (*source.train, *source.test)}
    assert found == {f"{name}/{file}" for name in ("Run", "Sit") for file in inner}


def test_by_group_no_group_is_on_both_sides(folder: Path) -> None:
    source = read(folder, 0.2)
    train, test = ({video.group for video in videos} for videos in (source.train, source.test))
    assert train | test == set("01234")
    assert not train & test
    assert len(source.test) == 12


def test_the_validation_split_is_taken_of_the_training_side(folder: Path) -> None:
    whole, parted = keys(read(folder)), keys(read(folder, validation={"share": 0.3}))
    assert sorted(parted[0] + parted[1]) == sorted(whole[0])
    assert parted[1]
    assert parted[2] == whole[2]


@given(st.permutations(range(12)), st.integers(0, 50), st.sampled_from(["group", "random"]))
@settings(max_examples=25, deadline=None)
def test_names_and_seed_alone_decide_the_split_and_every_class_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], seed: int, by: str
) -> None:
    names = [f"{name}/{name}_{g}_{n}.mp4" for name in ("Run", "Sit") for g in range(3) for n in range(2)]
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    add(first, *names)
    add(second, *(names[i] for i in order))
    splits = [read(folder, 0.3, by, seed) for folder in (first, second)]
    assert keys(splits[0]) == keys(splits[1])
    assert splits[0].digest() == splits[1].digest()
    assert {v.label for v in splits[0].train} == {v.label for v in splits[0].test} == {0, 1}


def test_another_seed_gives_another_split(folder: Path) -> None:
    assert len({tuple(keys(read(folder, by="random", seed=seed))[2]) for seed in range(3)}) == 3


def test_a_pattern_tells_groups_that_names_do_not(tmp_path: Path) -> None:
    add(tmp_path, *(f"{c}/{day}/{n}.mp4" for c in ("Run", "Sit") for day in ("d1", "d2", "d3") for n in "ab"))
    assert refusal(tmp_path, by="group") == (
        "data.split.by is group, but 12 of 12 videos carry no group; expected names with a recording group, "
        "for example Walk_3_12.mp4; set data.split.by: random, rename the videos, "
        "or (source: folder or csv) give data.group_pattern"
    )
    source = read(tmp_path, group_pattern="/(d[0-9])/")
    assert {video.group for video in source.test} < {"d1", "d2", "d3"}
    assert source.digest() != read(tmp_path, group_pattern="/d([0-9])/").digest()


def test_a_class_that_no_share_parts_is_named(tmp_path: Path) -> None:
    add(tmp_path, *(f"Run/Run_{g}_1.mp4" for g in range(6)), "Sit/Sit_1_1.mp4", "Sit/Sit_1_2.mp4")
    message = refusal(tmp_path, by="group")
    assert message.startswith("data.split leaves class 'Sit' without ")
    assert message.endswith(
        "expected training and test videos of each class; change data.split.test or seed, or set by: random, "
        "or give more videos of the class"
    )
    assert refusal(tmp_path, 0.05).startswith("data.split.test 0.05 gives nothing of 8 videos, a class at a")


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "Run/a.mp4")
    assert refusal(tmp_path) == (
        f"data.videos {tmp_path}: 1 class; expected at least 2; add the missing ones"
    )
    assert refusal(tmp_path / "Run").startswith(f"data.videos {tmp_path / 'Run'}: 0 classes; expected at lea")


def test_a_class_without_videos_is_named_with_what_it_holds_instead(folder: Path) -> None:
    add(folder, "Jump/a.mpg", "Jump/b.mpg", "Jump/notes.txt")
    assert refusal(folder) == (
        f"class folder {folder / 'Jump'} holds no video, only 2 .mpg, 1 .txt; "
        "expected files in .mp4, .avi, .mkv, .webm, .mov; add videos, or remove the folder"
    )
    (folder / "Empty").mkdir()
    assert refusal(folder).startswith(f"class folder {folder / 'Empty'} holds no video; expected files in")


def test_videos_beside_the_class_folders_are_refused(folder: Path) -> None:
    add(folder, "lost.mp4", "more.avi")
    assert refusal(folder) == (
        f"2 videos lie in {folder} itself, first lost.mp4; expected every video in its class's folder; "
        "move them into their classes' folders, or away"
    )


def test_two_files_of_one_key_are_refused(folder: Path) -> None:
    add(folder, "Run/Run_0_0.avi")
    assert refusal(folder) == (
        f"{folder / 'Run/Run_0_0.avi'} (class Run) and {folder / 'Run/Run_0_0.mp4'} (class Run) "
        "both give the key 'Run_0_0'; expected a name of its own for each video; "
        "rename one of the files, or leave one out"
    )


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "Run" / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    assert refusal(folder) == (
        f"video {folder / 'Run/gone.mp4'} is a link that leads nowhere; expected a file; "
        "mend the link, or remove it"
    )


def test_a_name_that_is_not_utf_8_is_refused_in_letters_that_can_be_shown(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder / "Run") + b"/caf\xe9.mp4")).touch()
    assert refusal(folder) == (
        rf"the name of '{folder}/Run/caf\udce9.mp4' is not UTF-8; expected names in UTF-8; rename the file"
    )


def test_names_with_spaces_dots_and_accents_get_keys_and_keep_their_classes(tmp_path: Path) -> None:
    add(tmp_path, *(f"{c}/{n}.mp4" for c in ("Große Sprünge", "a.b") for n in ("1 2", "1.2", "1_2", "é")))
    source = read(tmp_path, by="random")
    assert source.classes == ("Große Sprünge", "a.b")
    found = [video.key for video in (*source.train, *source.test)]
    assert len(set(found)) == 8
    assert all(key.isascii() and not {".", " "} & {*key} for key in found)


def test_the_real_subset_is_parted_by_its_recording_groups(arid_data: Path) -> None:
    source = read(arid_data / "arid_subset" / "videos")
    assert source.classes == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
    assert len(source.train) + len(source.test) == 150
    assert not {video.group for video in source.train} & {video.group for video in source.test}
    assert {video.label for video in source.train} == {video.label for video in source.test} == {*range(6)}
    assert all(video.key == video.path.stem for video in (*source.train, *source.test))
