"""Keys and recording groups that a path tells: stable, without a dot, and apart for paths that differ."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.data.sources.naming import MAX_KEY_BYTES, path_group, path_key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("Run/Run_1_1.mp4", "Run_1_1"),
        ("Run/day1/Run_1_1.mp4", "Run_1_1"),
        ("UCF-101/HandstandPushups/v_HandStandPushups_g01_c02.avi", "v_HandStandPushups_g01_c02"),
        ("brush_hair/A_b_brush_hair_u_nm_np1_ba_goo_0.avi", "A_b_brush_hair_u_nm_np1_ba_goo_0"),
        ("0001.mp4", "0001"),
        ("Run/0001.mp4", "Run-0001"),
        ("Run/day1/0001.mp4", "Run-day1-0001"),
        ("Run/Running_1.mp4", "Run-Running_1"),
        ("1/0001.mp4", "1-0001"),
        ("Run/my clip.mp4", "Run-my_clip-c13625bf"),
        ("Run/Run.v2.mp4", "Run_v2-2fa7613a"),
        ("Läufe/Läufe_1_1.mp4", "L_ufe_1_1-5565eb0c"),
    ],
)
def test_the_key_of_a_path_stays_what_it_is_today(path: str, key: str) -> None:
    """Shards and logits of earlier versions are bound to it."""
    assert path_key(PurePosixPath(path)) == key


PARTS = st.text("abAB01 ._-äé\\日本#", min_size=1, max_size=40).filter(lambda part: part.strip(". "))
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(
    lambda parts: PurePosixPath(*parts[:-1], f"{parts[-1]}.mp4")
)


@given(PATHS)
def test_every_path_has_a_key_that_fits_and_that_its_suffix_does_not_change(path: PurePosixPath) -> None:
    key = path_key(path)
    assert re.fullmatch(rf"[!-\[\]-~]{{1,{MAX_KEY_BYTES}}}", key)
    assert not {".", "/"} & {*key}
    assert path_key(path.with_suffix(".AVI")) == key


@given(st.lists(st.text("aé .日", min_size=1, max_size=6).filter(str.strip), min_size=2, unique=True))
def test_names_that_only_differ_in_what_no_key_can_hold_have_keys_of_their_own(names: list[str]) -> None:
    paths = {PurePosixPath("Run", f"{name}x.mp4") for name in names}
    assert len({path_key(path) for path in paths}) == len(paths)


def test_both_ways_to_write_an_accented_letter_give_one_key() -> None:
    composed, decomposed = PurePosixPath("Run/caf\u00e9.mp4"), PurePosixPath("Run/cafe\u0301.mp4")
    assert path_key(composed) == path_key(decomposed)


@pytest.mark.parametrize(
    ("path", "class_name", "group"),
    [
        ("Run/Run_11_31.mp4", "Run", "11"),
        ("Wave_Hand/Wave_Hand_3_2.mp4", "Wave_Hand", "3"),
        ("x/Run_a-b_1.mp4", "Run", "a-b"),
        ("Run/Run_3_1.mp4", "5", "3"),
        ("Archery/v_Archery_g07_c02.avi", "Archery", "g07"),
        ("kiss/Some_film_kiss_h_cm_np2_le_goo_4.avi", "kiss", "Some_film"),
        ("Run/Walk_3_1.mp4", "Run", ""),
        ("Run/Run_3_1_2.mp4", "Run", ""),
        ("Run/0001.mp4", "Run", ""),
        ("a/a_b_c.mp4", "a", ""),
    ],
)
def test_the_group_is_read_from_known_forms_of_names_alone(path: str, class_name: str, group: str) -> None:
    assert path_group(PurePosixPath(path), class_name, None) == group


@pytest.mark.parametrize(
    ("pattern", "group"),
    [("/(day[0-9]+)/", "day2"), ("^([^/]+)/", "Run"), ("x(.)", ""), ("day2(?:x|)(y)?", "")],
)
def test_a_pattern_finds_the_group_anywhere_in_the_path(pattern: str, group: str) -> None:
    assert path_group(PurePosixPath("Run/day2/Run_3_1.mp4"), "Run", pattern) == group
