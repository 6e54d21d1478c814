"""Lists as CSV, UCF101's and HMDB51's: what they say is what is read, and mistakes are answered."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd_dist.data.sources import Source, read_source
from ukd_dist.data.sources.listed import read_list
from ukd_dist.data.sources.lists import Row
from ukd_dist.data_config import Data
from ukd_dist.errors import DataError, UkdError, UsageError


@dataclass(frozen=True)
class Listing:
    """A folder of empty videos and of lists, written as a test wants them."""

    folder: Path

    def write(self, **lists: str) -> Listing:
        for name, text in lists.items():
            (self.folder / f"{name}.txt").write_bytes(text.encode())
        return self

    def add(self, *names: str) -> Listing:
        for name in names:
            path = self.folder / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return self

    def read(self, train: str = "train.txt", test: str = "test.txt", **other: object) -> Source:
        split = {"train": self.folder / train, "test": self.folder / test}
        data = {"source": "csv", "videos": self.folder / "videos", "splits": {"official": split}}
        return read_source(Data.model_validate({**data, **other}))

    def refusal(self, **other: object) -> str:
        with pytest.raises(UkdError) as raised:
            self.read(**other)  # type: ignore[arg-type]
        return str(raised.value)


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    """Four videos in CSV lists."""
    listing = Listing(tmp_path).add("Run/a.mp4", "Run/b.mp4", "Sit/a.mp4", "Sit/b.mp4")
    return listing.write(
        train="path,label\nRun/a.mp4,run\nSit/a.mp4,sit\n", test="path,label\nSit/b.mp4,sit\nRun/b.mp4,run\n"
    )


def told(source: Source) -> list[tuple[str, str]]:
    return [(video.key, source.classes[video.label]) for video in (*source.train, *source.test)]


# CSV.


def test_a_csv_names_videos_and_classes(listing: Listing) -> None:
    source = listing.read()
    assert source.classes == source.listed_labels == ("run", "sit")
    assert told(source) == [("Run-a", "run"), ("Sit-a", "sit"), ("Sit-b", "sit"), ("Run-b", "run")]


def test_numbers_of_a_csv_become_labels_from_0_and_are_kept(listing: Listing) -> None:
    listing.write(train="path,label\nRun/a.mp4,12\nSit/a.mp4,3\n", test="path,label\nSit/b.mp4,3\n")
    source = listing.read()
    assert (source.classes, source.listed_labels) == (("3", "12"), (3, 12))
    assert [video.label for video in source.train] == [1, 0]


def test_a_class_table_names_a_csvs_numbers_and_takes_names_too(listing: Listing) -> None:
    listing.write(
        train="path,label\nRun/a.mp4,12\nSit/a.mp4,sit\n",
        test="path,label\nSit/b.mp4,3\n",
        table="12\trun\n3 sit\n",
    )
    source = listing.read(classes=listing.folder / "table.txt")
    assert (source.classes, source.listed_labels) == (("sit", "run"), (3, 12))
    assert [video.label for video in (*source.train, *source.test)] == [1, 0, 0]


def test_columns_stand_in_any_order_and_a_group_may_be_told(listing: Listing) -> None:
    listing.write(train="group, label ,path\nmonday,run,Run/a.mp4\n,sit,Sit/a.mp4\n")
    source = listing.read()
    assert [(video.key, video.group) for video in source.train] == [("Run-a", "monday"), ("Sit-a", "")]
    listing.write(train="group,label,path\nfriday,run,Run/a.mp4\n,sit,Sit/a.mp4\n")
    assert listing.read().digest() != source.digest()


FIELDS = st.text('ab, "é;#.\\', min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS | st.just("")), min_size=1, max_size=8),
    foreign=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(deadline=None)
def test_a_csv_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], foreign: bool, quoting: int
) -> None:
    path, text = tmp_path_factory.mktemp("list") / "list.csv", io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="\r\n" if foreign else "\n").writerows(
        [("path", "label", "group"), *rows]
    )
    path.write_bytes(("\ufeff" * foreign + text.getvalue()).encode())
    assert read_list(path, "csv", "train") == [
        Row(f"{path}:{n}", *row) for n, row in enumerate(rows, start=2)
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "path,label\nRun/a.mp4\n",
            "2: 1 fields; expected 2, as the header path,label; correct the line; a field",
        ),
        (
            "path,label\n\nRun/a,b.mp4,run\n",
            "3: 3 fields; expected 2, as the header path,label; correct the li",
        ),
        (
            "path,label,group\nRun/a.mp4,run\n",
            "2: 2 fields; expected 3, as the header path,label,group; corr",
        ),
        ("path,label\n,run\n", "2: the path is empty; expected one; give it"),
        ("path,label\nRun/a.mp4, \n", "2: the label is empty; expected one; give it"),
        ("path,class\n", "1: header 'path,class'; expected path,label and, if wanted, group; correct it, or"),
        (
            "path,label,fps\n",
            "1: header 'path,label,fps'; expected path,label and, if wanted, group; correct",
        ),
        (
            "path,label,path\n",
            "1: header 'path,label,path'; expected path,label and, if wanted, group; corre",
        ),
        (
            'path,label\n"Run/a.mp4,run\n',
            "2: unexpected end of data; expected CSV; correct the line's quotes",
        ),
        (
            "path,label\n../a.mp4,run\n",
            "2: path ../a.mp4 does not start from data.videos; expected a path below",
        ),
        ("path,label\n/a.mp4,run\n", "2: path /a.mp4 does not start from data.videos; expected a path below"),
        (
            "Run/a.mp4,run\n",
            "1: 'Run/a.mp4,run' begins no list of a known format; expected a header path,lab",
        ),
    ],
)
def test_a_line_of_a_csv_that_is_wrong_is_named_with_its_number(
    listing: Listing, text: str, problem: str
) -> None:
    listing.write(train=text)
    assert listing.refusal().startswith(f"{listing.folder / 'train.txt'}:{problem}")


@pytest.mark.parametrize("text", ["", "\ufeff\n \n", "path,label\n", "path,label\n\n \n"])
def test_a_list_without_a_video_is_refused(listing: Listing, text: str) -> None:
    assert listing.write(test=text).refusal() == (
        f"{listing.folder / 'test.txt'} lists no video; expected one on each line; "
        "add videos, or give another list"
    )


def test_a_list_in_another_encoding_is_refused(listing: Listing) -> None:
    (listing.folder / "train.txt").write_bytes("path,label\nLäufe/a.mp4,run\n".encode("latin-1"))
    assert listing.refusal() == (
        f"list {listing.folder / 'train.txt'} is not text (invalid continuation byte); expected UTF-8; "
        "save it as UTF-8"
    )
    (listing.folder / "train.txt").write_bytes("path,label\n".encode("utf-16"))
    assert "is not text (invalid start byte); expected UTF-8" in listing.refusal()


def test_numbers_and_names_in_one_list_are_refused(listing: Listing) -> None:
    train = listing.folder / "train.txt"
    listing.write(train="path,label\nRun/a.mp4,run\nSit/a.mp4,3\n")
    assert listing.refusal() == (
        f"label 3 ({train}:3) is a number, 'run' ({train}:2) a name, and no class table says which class is "
        "which; expected numbers only, names only, or a class table; correct the labels, or give data.classes"
    )


def test_a_class_that_only_the_test_list_knows_is_refused(listing: Listing) -> None:
    listing.write(test="path,label\nSit/b.mp4,sit\nRun/b.mp4,rum\n")
    assert listing.refusal() == (
        f"class 'rum' has no training video in {listing.folder / 'train.txt'}; "
        "expected at least one for each class of the table; add one, or remove the class from the table"
    )


def test_a_class_that_the_table_does_not_name_is_refused(listing: Listing) -> None:
    listing.write(table="".join(f"{n} class{n}\n" for n in range(10)) + "10 run\n")
    assert listing.refusal(classes=listing.folder / "table.txt") == (
        f"{listing.folder / 'train.txt'}:3: class 'sit' is no class of the class table; expected one "
        "of class0, class1, class2, class3, class4, class5, class6, class7, ...; "
        "correct the label, or add its class to the table"
    )


def test_a_list_of_one_class_is_refused(listing: Listing) -> None:
    listing.write(train="path,label\nRun/a.mp4,run\n", test="path,label\nRun/b.mp4,run\n")
    assert listing.refusal() == "the lists: 1 class; expected at least 2; add the missing ones"


def test_a_video_in_both_lists_and_a_video_listed_twice_are_refused(listing: Listing) -> None:
    train, test = (listing.folder / f"{name}.txt" for name in ("train", "test"))
    video = listing.folder / "videos/Run/a.mp4"
    listing.write(test="path,label\nRun/a.mp4,run\n")
    assert listing.refusal().startswith(
        f"video {video} is in the training and in the test list ({train}:2, {test}:2); expected every video"
    )
    listing.write(train="path,label\nRun/a.mp4,run\nSit/a.mp4,sit\nRun/a.avi,run\n")
    assert listing.refusal().startswith(
        f"video {video} is listed twice ({train}:2, {train}:4); expected every"
    )


def test_two_paths_of_one_key_are_refused(listing: Listing) -> None:
    listing.add("x/Run-a.mp4", "Run-a.mp4").write(test="path,label\nRun-a.mp4,run\n")
    videos = listing.folder / "videos"
    assert listing.refusal().startswith(
        f"{videos / 'Run/a.mp4'} ({listing.folder / 'train.txt'}:2) and {videos / 'Run-a.mp4'} "
        f"({listing.folder / 'test.txt'}:2) both give the key 'Run-a'; expected a name of its own"
    )


def test_groups_that_the_list_and_a_pattern_tell_are_refused(listing: Listing) -> None:
    listing.write(train="path,label,group\nRun/a.mp4,run,monday\nSit/a.mp4,sit,\n")
    assert listing.refusal(group_pattern="(.)/") == (
        f"{listing.folder / 'train.txt'}:2 tells the recording group, which data.group_pattern tells as "
        "well; expected one of the two; remove data.group_pattern, or the column group"
    )


def test_a_folder_is_no_list_and_hmdb51s_pattern_is_shown(listing: Listing) -> None:
    (listing.folder / "lists").mkdir()
    assert listing.refusal(train="lists") == (
        f"list {listing.folder}/lists is a folder; expected a file, or of HMDB51 a pattern that names a file "
        f"for each class; give, for example, {listing.folder}/lists/*_test_split1.txt"
    )


# UCF101.


@pytest.fixture
def ucf101(tmp_path: Path) -> Listing:
    """Three videos a class, the first group in the test list; the labels of classInd.txt start from 1."""
    classes = ("ApplyEyeMakeup", "HandstandPushups")
    files = ("v_ApplyEyeMakeup", "v_HandStandPushups")  # the capital S is UCF101's own
    names = [f"{c}/{f}_g0{g}_c01.avi" for c, f in zip(classes, files, strict=True) for g in (1, 2, 3)]
    train = "".join(
        f"{name} {classes.index(name.split('/')[0]) + 1}\n" for name in names if "_g01_" not in name
    )
    test = "".join(f"{name}\n" for name in names if "_g01_" in name)
    listing = Listing(tmp_path).add(*names)
    return listing.write(
        train=train, test=test, classInd="".join(f"{n} {name}\n" for n, name in enumerate(classes, start=1))
    )


def check_ucf101(source: Source) -> None:
    assert source.classes == ("ApplyEyeMakeup", "HandstandPushups")
    assert (len(source.train), len(source.test)) == (4, 2)
    assert [(v.key, v.label, v.group) for v in source.test] == [
        ("v_ApplyEyeMakeup_g01_c01", 0, "g01"),
        ("v_HandStandPushups_g01_c01", 1, "g01"),
    ]


def test_ucf101s_lists_are_known_by_their_content(ucf101: Listing) -> None:
    (ucf101.folder / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    source = ucf101.read()
    check_ucf101(source)
    assert source.listed_labels == (1, 2)


def test_ucf101s_classes_are_known_without_their_table(ucf101: Listing) -> None:
    (ucf101.folder / "classInd.txt").unlink()
    source = ucf101.read()
    check_ucf101(source)
    assert source.listed_labels == (1, 2)
    (ucf101.folder / "train.txt").write_text(
        "".join(f"{line.split()[0]}\n" for line in (ucf101.folder / "train.txt").read_text().splitlines())
    )
    source = ucf101.read()
    check_ucf101(source)
    assert source.listed_labels == source.classes


PATHS = st.lists(
    st.text("abAB01_ é.-", min_size=1, max_size=8).map(str.strip).filter(lambda part: part.strip(".")),
    min_size=2,
    max_size=3,
)


@given(
    rows=st.lists(st.tuples(PATHS, st.integers(1, 101) | st.none()), min_size=1, max_size=8),
    foreign=st.booleans(),
)
@settings(deadline=None)
def test_ucf101s_lists_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[list[str], int | None]], foreign: bool
) -> None:
    path = tmp_path_factory.mktemp("list") / "trainlist01.txt"
    lines = [f"{'/'.join(parts)}.avi" + (f" {n}" if n is not None else "") for parts, n in rows]
    path.write_bytes(("\ufeff" * foreign + ("\r\n" if foreign else "\n").join(lines)).encode())
    assert read_list(path, "ucf101", "train") == [
        Row(f"{path}:{n}", f"{'/'.join(parts)}.avi", Path(*parts).parent.name if label is None else label)
        for n, (parts, label) in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize(
    "line", ["ApplyEyeMakeup/v_x 1", "1", "a/v_x.avi 1 2", "a/v_x.avi\t1", "a/v_x.avi one"]
)
def test_a_line_that_is_not_ucf101s_is_quoted(ucf101: Listing, line: str) -> None:
    with (ucf101.folder / "train.txt").open("a") as file:
        file.write(f"{line}\n")
    assert ucf101.refusal() == (
        f"{ucf101.folder / 'train.txt'}:5: '{line}'; expected '<Class>/<video>.avi <label>', or without the "
        "label; correct the line"
    )


def test_a_label_and_a_folder_that_classind_does_not_name_are_refused(ucf101: Listing) -> None:
    ucf101.add("Archery/v_Archery_g01_c01.avi").write(test="Archery/v_Archery_g01_c01.avi\n")
    assert ucf101.refusal() == (
        f"{ucf101.folder / 'test.txt'}:1: class 'Archery' is no class of the class table; expected one of "
        "ApplyEyeMakeup, HandstandPushups; correct the label, or add its class to the table"
    )
    ucf101.write(test="Archery/v_Archery_g01_c01.avi 3\n")
    assert "label 3 is no class of the class table; expected one of [1, 2]; correct" in ucf101.refusal()


def test_lists_of_different_formats_are_refused(ucf101: Listing) -> None:
    ucf101.write(test="path,label\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi,1\n")
    assert ucf101.refusal() == (
        f"{ucf101.folder / 'train.txt'} is a list in the format ucf101, "
        f"{ucf101.folder / 'test.txt'} one in csv; "
        "expected one format; give both lists in one"
    )


def test_a_format_that_is_said_is_not_guessed(ucf101: Listing) -> None:
    assert ucf101.read(format="ucf101") == ucf101.read()
    assert ucf101.refusal(format="csv").startswith(
        f"{ucf101.folder / 'train.txt'}:1: header 'ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi 1'; expected"
    )


# HMDB51.

HMDB51 = {"train": "*_test_split1.txt", "test": "*_test_split1.txt"}


def film(name: str, number: int) -> str:
    return f"Film_{number}_{name}_u_nm_np1_ba_goo_{number}.avi"


@pytest.fixture
def hmdb51(tmp_path: Path) -> Listing:
    """Two classes in the first of three splits: two training videos, one test video, and one that is out."""
    listing = Listing(tmp_path)
    for name in ("brush_hair", "#jump!"):
        listing.add(*(f"{name}/{film(name, n)}" for n in range(4)))
        lines = [f"{film(name, n)} {mark} " for n, mark in enumerate((1, 2, 0, 1))]
        listing.write(
            **{f"{name}_test_split1": "\n".join(lines), f"{name}_test_split2": "\n".join(lines[:2])}
        )
    return listing


def test_hmdb51s_lists_are_one_file_a_class(hmdb51: Listing) -> None:
    source = hmdb51.read(**HMDB51)
    assert source.classes == source.listed_labels == ("#jump!", "brush_hair")
    assert [v.key for v in source.train] == [
        Path(film(name, n)).stem for name in source.classes for n in (0, 3)
    ]
    assert [(v.key, v.group) for v in source.test] == [
        (Path(film(name, 1)).stem, "Film_1") for name in source.classes
    ]


@given(
    rows=st.lists(
        st.tuples(st.text("ab_ é.12", min_size=1).map(str.strip).filter(bool), st.sampled_from("012")),
        min_size=1,
        max_size=8,
    )
)
@settings(deadline=None)
def test_hmdb51s_lists_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    path = folder / "wave_test_split3.txt"
    path.write_text("".join(f"{name}.avi {mark} \n" for name, mark in [*rows, ("last", "1"), ("last", "2")]))
    for part, wanted in (("train", "1"), ("test", "2")):
        found = read_list(folder / "*_test_split3.txt", "hmdb51", part)  # type: ignore[arg-type]
        assert [row.path for row in found] == [
            f"wave/{name}.avi" for name, mark in [*rows, ("last", wanted)] if mark == wanted
        ]
        assert {row.label for row in found} == {"wave"}


def test_a_pattern_that_matches_nothing_is_refused(hmdb51: Listing) -> None:
    assert hmdb51.refusal(train="*_test_split9.txt", test="*_test_split9.txt") == (
        f"list {hmdb51.folder}/*_test_split9.txt: no file matches; expected a pattern that names a file for "
        "each class; correct it, for example to .../*_test_split1.txt"
    )


def test_a_pattern_that_names_two_splits_is_refused(hmdb51: Listing) -> None:
    folder = hmdb51.folder
    assert hmdb51.refusal(train="*_test_split*.txt", test="*_test_split*.txt") == (
        f"{folder}/#jump!_test_split1.txt and {folder}/#jump!_test_split2.txt are both lists of class "
        "'#jump!'; expected the lists of one split; give a pattern that names one, "
        "for example *_test_split1.txt"
    )


def test_a_file_that_names_no_class_is_refused(hmdb51: Listing) -> None:
    hmdb51.write(readme="")
    assert hmdb51.refusal(train="*.txt", test="*.txt").startswith(f"{hmdb51.folder}/")
    assert hmdb51.refusal(train="r*.txt", test="r*.txt") == (
        f"{hmdb51.folder}/readme.txt names no class; expected <class>_test_split<number>.txt; "
        f"correct {hmdb51.folder}/r*.txt"
    )


def test_a_class_without_a_video_of_a_part_is_refused(hmdb51: Listing) -> None:
    hmdb51.write(wave_test_split1="a.avi 1 \nb.avi 0 \n")
    assert hmdb51.refusal(**HMDB51) == (
        f"{hmdb51.folder}/wave_test_split1.txt has no test video; expected lines that end in 2; "
        "mark some, or leave the class out"
    )


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "1"])
def test_a_line_that_is_not_hmdb51s_is_quoted(hmdb51: Listing, line: str) -> None:
    hmdb51.write(wave_test_split1=f"a.avi 1\n{line}\n")
    assert hmdb51.refusal(**HMDB51) == (
        f"{hmdb51.folder}/wave_test_split1.txt:2: '{line}'; expected '<video>.avi 1' (training), 2 (test) "
        "or 0; correct the line"
    )


def test_missing_lists_are_wrong_usage_and_wrong_lines_wrong_data(listing: Listing) -> None:
    with pytest.raises(
        UsageError, match=r"list .*nowhere.txt: No such file or directory; expected a readable"
    ):
        listing.read(train="nowhere.txt")
    with pytest.raises(DataError, match="1 of 4 listed videos are missing in "):
        listing.write(test="path,label\nSit/b.mp4,sit\nRun/c.mp4,run\n").read()
