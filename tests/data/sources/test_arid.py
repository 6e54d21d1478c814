"""Lists of videos: ARID's format as it exists in the wild, and what each mistake in it is answered with."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ukd_dist.data.sources import MAX_KEY_BYTES, Source, read_source
from ukd_dist.data.sources.arid import read_arid_list
from ukd_dist.data.sources.lists import Row
from ukd_dist.data.sources.tables import read_class_table
from ukd_dist.data_config import Data, Split
from ukd_dist.errors import DataError, UkdError, UsageError

TABLE = "0\tRun\n1\tSit\n"


@dataclass(frozen=True)
class Listing:
    """A data set of empty files, written as its test wants it."""

    folder: Path

    def write(self, train: str, test: str = "0\t0\tRun/Run_9_1.mp4\n", table: str = TABLE) -> Data:
        for name, text in (("train", train), ("test", test), ("mapping_table", table)):
            (self.folder / f"{name}.txt").write_bytes(text.encode())
        return self.data()

    def data(self, **other: object) -> Data:
        split = Split(train=self.folder / "train.txt", test=self.folder / "test.txt")
        settings = {"source": "arid", "videos": self.folder / "videos", "splits": {"split0": split}}
        return Data.model_validate({**settings, **other})

    def add(self, *names: str) -> None:
        for name in names:
            path = self.folder / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def refusal(self, train: str, test: str = "0\t0\tRun/Run_9_1.mp4\n", table: str = TABLE) -> UkdError:
        with pytest.raises(UkdError) as raised:
            read_source(self.write(train, test, table))
        return raised.value


GOOD = "0\t0\tRun/Run_1_1.mp4\n1\t1\tSit/Sit_1_1.mp4\n"


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    listing = Listing(tmp_path)
    listing.add("Run/Run_1_1.mp4", "Run/Run_9_1.mp4", "Sit/Sit_1_1.mp4", "Sit/Sit_9_1.mp4")
    return listing


def keys(source: Source) -> list[str]:
    return [video.key for video in (*source.train, *source.test)]


def test_a_line_becomes_a_key_a_label_a_group_and_a_file(listing: Listing) -> None:
    source = read_source(listing.write(GOOD))
    run, sit = source.train
    assert (run.key, run.label, run.group) == ("Run_1_1", 0, "1")
    assert sit.path == listing.folder / "videos" / "Sit" / "Sit_1_1.mp4"
    assert [video.key for video in source.test] == ["Run_9_1"]
    assert source.classes == ("Run", "Sit")


@pytest.mark.parametrize(
    ("stem", "group"),
    [("Run_11_31", "11"), ("Wave_Hand_3_2", "3"), ("Run_a-b_1", "a-b"), ("clip", ""), ("clip_7", "")],
)
def test_the_group_is_read_from_arids_names_and_empty_in_others(
    listing: Listing, stem: str, group: str
) -> None:
    listing.add(f"{stem}.mp4")
    source = read_source(listing.write(GOOD, f"0\t0\t{stem}.mp4\n"))
    assert source.test[0].group == group


def test_labels_that_do_not_start_at_0_are_numbered_in_their_order(listing: Listing) -> None:
    train = "0\t9\tSit/Sit_1_1.mp4\n1\t5\tRun/Run_1_1.mp4\n"
    source = read_source(listing.write(train, "0\t5\tRun/Run_9_1.mp4\n", "9\tSit\n5\tRun\n"))
    assert source.classes == ("Run", "Sit")
    assert source.listed_labels == (5, 9)
    assert [video.label for video in source.train] == [1, 0]
    assert [video.label for video in source.test] == [0]


@pytest.mark.parametrize(("listed", "there"), [(".avi", ".mp4"), (".mp4", ".avi"), (".AVI", ".mp4")])
def test_an_avi_is_found_as_mp4_and_an_mp4_as_avi(listing: Listing, listed: str, there: str) -> None:
    listing.add(f"Run/Run_3_1{there}")
    source = read_source(listing.write(GOOD, f"0\t0\tRun/Run_3_1{listed}\n"))
    assert source.test[0].path.name == f"Run_3_1{there}"
    assert source.test[0].key == "Run_3_1"


def test_the_listed_file_itself_is_taken_before_its_swap(listing: Listing) -> None:
    listing.add("Run/Run_3_1.avi", "Run/Run_3_1.mp4")
    source = read_source(listing.write(GOOD, "0\t0\tRun/Run_3_1.avi\n"))
    assert source.test[0].path.suffix == ".avi"


def test_byte_order_marks_windows_line_ends_and_empty_lines_change_nothing(listing: Listing) -> None:
    plain = read_source(listing.write(GOOD))
    foreign = ["\ufeff" + text.replace("\n", "\r\n") + "\r\n\r\n" for text in (GOOD, TABLE)]
    assert read_source(listing.write(foreign[0], table=foreign[1])) == plain


def test_the_class_table_may_lie_elsewhere(listing: Listing) -> None:
    listing.write(GOOD)
    elsewhere = (listing.folder / "mapping_table.txt").rename(listing.folder / "classes.txt")
    assert read_source(listing.data(classes=elsewhere)).classes == ("Run", "Sit")


STEMS = st.text(string.ascii_letters + string.digits + "_-+,'()", min_size=1, max_size=20)


@given(labels=st.dictionaries(STEMS, st.integers(0, 4), min_size=2, max_size=12), data=st.data())
@settings(max_examples=40)
def test_every_listed_video_is_read_once_with_its_class_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, labels: dict[str, int], data: st.DataObject
) -> None:
    assume(len(set(labels.values())) > 1)
    listed = data.draw(st.permutations(sorted(labels)))
    first_label = data.draw(st.integers(0, 100))
    listing = Listing(tmp_path_factory.mktemp("listing"))
    listing.add(*(f"{name}.mp4" for name in listed), "Run/Run_9_1.mp4")
    train = [f"{i}\t{first_label + labels[name]}\t{name}.mp4\n" for i, name in enumerate(listed)]
    test = f"0\t{first_label + min(labels.values())}\tRun/Run_9_1.mp4\n"
    table = [f"{first_label + label}\tclass {label}\n" for label in set(labels.values())]
    source = read_source(listing.write("".join(train), test, "".join(table)))
    assert keys(source) == [*listed, "Run_9_1"]
    found = {video.key: source.classes[video.label] for video in source.train}
    assert found == {name: f"class {label}" for name, label in labels.items()}


def test_the_digest_tells_labels_keys_splits_and_sizes_apart(listing: Listing) -> None:
    other_label = "0\t0\tRun/Run_1_1.mp4\n1\t0\tSit/Sit_1_1.mp4\n2\t1\tSit/Sit_9_1.mp4\n"
    other_order = "0\t1\tSit/Sit_1_1.mp4\n1\t0\tRun/Run_1_1.mp4\n"
    digests = [read_source(listing.write(train)).digest() for train in (GOOD, other_label, other_order)]
    (listing.folder / "videos" / "Run" / "Run_1_1.mp4").write_bytes(b"longer")
    digests.append(read_source(listing.write(GOOD)).digest())
    assert len(set(digests)) == 4
    assert read_source(listing.write(GOOD)).digest() == digests[-1]


# What is wrong is answered with where it is, what was expected and what to do.


def several_groups(listing: Listing) -> str:
    """A list of six videos of three recording groups, which exist."""
    names = [f"{name}/{name}_{group}_1.mp4" for name in ("Run", "Sit") for group in (1, 2, 3)]
    listing.add(*names)
    return "".join(f"{i}\t{i // 3}\t{name}\n" for i, name in enumerate(names))


def test_the_validation_videos_are_taken_out_of_the_training_list_by_group(listing: Listing) -> None:
    listing.write(several_groups(listing))
    whole = read_source(listing.data())
    parted = read_source(listing.data(validation={"share": 0.3}))
    assert whole.validation == ()
    assert len(parted.validation) == 2
    assert sorted(parted.train + parted.validation, key=whole.train.index) == list(whole.train)
    assert not {v.group for v in parted.train} & {v.group for v in parted.validation}
    assert parted.test == whole.test


def test_without_a_validation_split_the_digest_is_that_of_before_there_was_one(listing: Listing) -> None:
    """So that shards which were made then count as made."""
    digest = "65c4c5c0f057ae2698fbb3752f483b33df62575903e5f1642f58752334234e79"
    assert read_source(listing.write(GOOD)).digest() == digest


def test_folds_that_the_list_cannot_give_are_refused(listing: Listing) -> None:
    listing.write(several_groups(listing))
    folds = {"count": 3, "by": "group"}
    assert len(read_source(listing.data(folds=folds)).train) == 6
    with pytest.raises(UsageError, match=r"class 'Run' keeps 1 of its 2 recording groups where fold \d of 2"):
        read_source(listing.data(folds={**folds, "count": 2}, validation={"share": 0.3}))


def test_the_digest_tells_another_validation_split_apart(listing: Listing) -> None:
    listing.write(several_groups(listing))
    wanted = [None, *({"share": 0.3, "seed": seed} for seed in range(4))]
    found = [read_source(listing.data(validation=validation)) for validation in wanted]
    assert len({source.digest() for source in found}) == len({source.validation for source in found}) > 2


def test_a_class_of_one_recording_group_is_said_before_any_video_is_decoded(arid_data: Path) -> None:
    lists = arid_data / "arid_subset" / "lists"
    split = {"train": lists / "split0_train.txt", "test": lists / "split0_test.txt"}
    data = {"source": "arid", "videos": arid_data / "arid_subset" / "videos", "splits": {"split0": split}}
    with pytest.raises(UsageError, match=r"data.validation leaves class 'Jump' without .* set by: random"):
        read_source(Data.model_validate({**data, "validation": {"share": 0.2}}))
    source = read_source(Data.model_validate({**data, "validation": {"share": 0.2, "by": "random"}}))
    assert (len(source.train), len(source.validation)) == (81, 21)


def test_a_missing_folder_of_videos_is_named(listing: Listing) -> None:
    listing.write(GOOD)
    nowhere = listing.folder / "nowhere"
    with pytest.raises(UsageError) as raised:
        read_source(listing.data(videos=nowhere))
    assert (
        str(raised.value)
        == f"data.videos {nowhere} is no folder; expected the folder with the classes' folders; "
        "correct data.videos"
    )


@pytest.mark.parametrize(("name", "what"), [("train", "list"), ("test", "list"), ("classes", "class table")])
def test_a_missing_list_or_class_table_is_named(listing: Listing, name: str, what: str) -> None:
    listing.write(GOOD)
    path = listing.folder / f"{name}.txt"
    data = listing.data(classes=listing.folder / "classes.txt") if name == "classes" else listing.data()
    path.unlink(missing_ok=True)
    with pytest.raises(UsageError) as raised:
        read_source(data)
    assert (
        str(raised.value)
        == f"{what} {path}: No such file or directory; expected a readable file; correct its path"
    )


def test_a_list_that_is_no_text_is_named(listing: Listing) -> None:
    data = listing.write(GOOD)
    (listing.folder / "test.txt").write_bytes(b"\x00\xff\xfe\x80")
    with pytest.raises(
        DataError, match=r"list .*test\.txt is not text \(invalid start byte\); expected UTF-8; save it"
    ):
        read_source(data)


@pytest.mark.parametrize(
    "line",
    [
        "2 1 Sit/Sit_1_1.mp4",
        "Sit/Sit_1_1.mp4\t1",
        "2\t1\tSit/Sit_1_1.mp4\t",
        "2\tSit\tSit/Sit_1_1.mp4",
        "2\t-1\tSit/Sit_1_1.mp4",
        "2\t²\tSit/Sit_1_1.mp4",
        "2\t\tSit/Sit_1_1.mp4",
    ],
)
def test_a_malformed_line_is_quoted_with_its_file_and_number(listing: Listing, line: str) -> None:
    error = listing.refusal(f"0\t0\tRun/Run_1_1.mp4\n\n{line}\n")
    where = listing.folder / "train.txt"
    assert str(error) == f"{where}:3: '{line}'; expected index<TAB>label<TAB>path; correct the line"


@pytest.mark.parametrize("line", ["2;Walk", "Walk\t2", "2\t", " 2\tWalk", "\tWalk", "²\tWalk"])
def test_a_malformed_line_of_the_class_table_is_quoted_with_its_number(listing: Listing, line: str) -> None:
    error = listing.refusal(GOOD, table=f"{TABLE}{line}\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}:3: '{line}'; expected label<TAB>class; correct the line"


def test_a_label_given_to_two_classes_is_refused(listing: Listing) -> None:
    error = listing.refusal(GOOD, table=f"{TABLE}1\tWalk\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}:3: label 1 is given twice; expected each once; remove one of the two"


def test_a_class_given_two_labels_is_refused(listing: Listing) -> None:
    error = listing.refusal(GOOD, table=f"{TABLE}2\tSit\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}:3: class 'Sit' is given twice; expected each once; remove one of the two"


def test_a_table_of_one_class_is_refused(listing: Listing) -> None:
    error = listing.refusal(GOOD, table="0\tRun\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}: 1 class; expected at least 2; add the missing ones"


def test_a_label_of_no_class_is_named_with_the_labels_there_are(listing: Listing) -> None:
    error = listing.refusal(GOOD, "0\t0\tRun/Run_9_1.mp4\n1\t7\tSit/Sit_9_1.mp4\n")
    assert str(error) == (
        f"{listing.folder / 'test.txt'}:2: label 7 is no class of the class table; expected one of [0, 1]; "
        "correct the label, or add its class to the table"
    )


def test_missing_videos_are_counted_and_the_first_named_with_the_lines_that_list_them(
    listing: Listing,
) -> None:
    test = "".join(f"{i}\t0\tRun/Run_8_{i}.avi\n" for i in range(5))
    error = listing.refusal(GOOD, f"{test}5\t1\tSit/Sit_9_1.avi\n")
    path = listing.folder / "test.txt"
    assert str(error) == (
        f"5 of 8 listed videos are missing in {listing.folder / 'videos'}, first Run/Run_8_0.avi ({path}:1), "
        f"Run/Run_8_1.avi ({path}:2), Run/Run_8_2.avi ({path}:3); expected every listed video, .avi and .mp4 "
        "being taken for each other; correct data.videos or the list"
    )


def test_a_key_with_a_dot_is_refused(listing: Listing) -> None:
    listing.add("Run/Run_1.5_1.mp4")
    error = listing.refusal(GOOD, "0\t0\tRun/Run_1.5_1.mp4\n")
    assert str(error) == (
        f"{listing.folder / 'test.txt'}:1: key 'Run_1.5_1' holds a dot, at which WebDataset would split it; "
        "expected a file name with one dot, before its extension; rename the file"
    )


@pytest.mark.parametrize(
    "key", ["Läufer_1_1", "my clip", "back\\slash", "bell\a", "r" * (MAX_KEY_BYTES + 1)], ids=ascii
)
def test_a_key_that_tar_or_its_index_would_change_is_refused(listing: Listing, key: str) -> None:
    listing.add(f"{key}.mp4")
    error = listing.refusal(GOOD, f"0\t0\t{key}.mp4\n")
    assert str(error) == (
        f"{listing.folder / 'test.txt'}:1: key '{key}' does not fit a tar's plain header and DALI's index; "
        "expected at most 80 ASCII characters, none a space or a backslash; rename the file"
    )


@pytest.mark.parametrize("twin", ["Run/Run_1_1.mp4", "Run/Run_1_1.avi", "./Run//Run_1_1.mp4"])
def test_a_video_in_the_training_and_the_test_list_is_refused(listing: Listing, twin: str) -> None:
    error = listing.refusal(GOOD, f"0\t0\tRun/Run_9_1.mp4\n1\t0\t{twin}\n")
    assert str(error) == (
        f"video {listing.folder / 'videos/Run/Run_1_1.mp4'} is in the training and in the test list "
        f"({listing.folder / 'train.txt'}:1, {listing.folder / 'test.txt'}:2); "
        "expected every video once over both lists; remove one of the lines"
    )


def test_a_video_listed_twice_in_one_list_is_refused(listing: Listing) -> None:
    error = listing.refusal(f"{GOOD}2\t1\tRun/Run_1_1.mp4\n")
    train = listing.folder / "train.txt"
    assert str(error) == (
        f"video {listing.folder / 'videos/Run/Run_1_1.mp4'} is listed twice ({train}:1, {train}:3); "
        "expected every video once over both lists; remove one of the lines"
    )


def test_two_videos_of_one_key_are_refused(listing: Listing) -> None:
    listing.add("elsewhere/Run_1_1.mp4")
    error = listing.refusal(GOOD, "0\t0\telsewhere/Run_1_1.mp4\n")
    videos = listing.folder / "videos"
    assert str(error) == (
        f"{videos / 'Run/Run_1_1.mp4'} ({listing.folder / 'train.txt'}:1) and "
        f"{videos / 'elsewhere/Run_1_1.mp4'} ({listing.folder / 'test.txt'}:1) both give the key 'Run_1_1'; "
        "expected a name of its own for each video; rename one of the files, or leave one out"
    )


def test_a_class_without_a_training_video_is_named(listing: Listing) -> None:
    error = listing.refusal("0\t0\tRun/Run_1_1.mp4\n", "0\t1\tSit/Sit_9_1.mp4\n")
    assert str(error) == (
        f"class 'Sit' has no training video in {listing.folder / 'train.txt'}; "
        "expected at least one for each class of the table; add one, or remove the class from the table"
    )


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"], ids=["nothing", "blank lines", "only a mark"])
def test_an_empty_list_is_refused(listing: Listing, name: str, text: str) -> None:
    error = listing.refusal(**{"train": GOOD, name: text})
    path = listing.folder / f"{name}.txt"
    assert str(error) == (
        f"{path} lists no video; expected one on each line; add videos, or give another list"
    )


# The formats of ARID's versions, told by content.

FORMS = {
    "v1.0": lambda rows: "".join(f"{i}\t{label}\t{path}\n" for i, (path, label) in enumerate(rows)),
    "v1.1": lambda rows: (
        "VideoID,Video,ClassID\n" + "".join(f"{i},{path},{label}\n" for i, (path, label) in enumerate(rows))
    ),
    "v1.5": lambda rows: "".join(f"{path} {label}\n" for path, label in rows),
}
PATHS = st.lists(st.text("abcXYZ019_- éß.'()", min_size=1, max_size=12), min_size=1, max_size=3).map(
    lambda parts: "/".join(part.strip() or "x" for part in parts) + ".avi"
)


@pytest.mark.parametrize("form", FORMS)
@given(rows=st.lists(st.tuples(PATHS, st.integers(0, 200)), min_size=1, max_size=8), foreign=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_list_written_in_any_format_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, form: str, rows: list[tuple[str, int]], foreign: bool
) -> None:
    path = tmp_path_factory.mktemp("list") / "videos.lst"
    text = FORMS[form](rows)
    path.write_bytes(("\ufeff" + text.replace("\n", "\r\n") if foreign else text).encode())
    first_line = 2 if form == "v1.1" else 1
    assert read_arid_list(path) == [
        Row(f"{path}:{n}", name, label) for n, (name, label) in enumerate(rows, start=first_line)
    ]


@pytest.mark.parametrize("train_form", FORMS)
@pytest.mark.parametrize("test_form", FORMS)
def test_the_two_lists_may_be_of_different_versions(
    listing: Listing, train_form: str, test_form: str
) -> None:
    train = FORMS[train_form]([("Run/Run_1_1.mp4", 0), ("Sit/Sit_1_1.mp4", 1)])
    test = FORMS[test_form]([("Run/Run_9_1.mp4", 0)])
    assert read_source(listing.write(train, test)) == read_source(listing.write(GOOD))


@pytest.mark.parametrize("line", ["Run/Run_1_1.mp4", "0 Run/Run_1_1.mp4", "0,Run/Run_1_1.mp4,0", "0;0;Run"])
def test_a_list_of_no_known_format_is_told_the_known_ones(listing: Listing, line: str) -> None:
    assert str(listing.refusal(f"\n{line}\n")) == (
        f"{listing.folder / 'train.txt'}:2: '{line}' is no line of a list of ARID; expected "
        "index<TAB>label<TAB>path (v1.0), a header VideoID,Video,ClassID (v1.1) or 'path label' (v1.5); "
        "give a list in one of these formats, or set source: csv"
    )


@pytest.mark.parametrize(
    ("form", "line", "expected"),
    [
        ("v1.1", "2,Run/Run_1_1.mp4", "VideoID,Video,ClassID"),
        ("v1.1", "2,Run/Run_1_1.mp4,0,", "VideoID,Video,ClassID"),
        ("v1.1", "2,Run/Run_1_1.mp4,Run", "VideoID,Video,ClassID"),
        ("v1.1", "2,,0", "VideoID,Video,ClassID"),
        ("v1.5", "Run/Run_1_1.mp4", "path label"),
        ("v1.5", "Run/Run_1_1.mp4 Run", "path label"),
        ("v1.5", "Run/Run_1_1.mp4\t0", "path label"),
        ("v1.5", f"Run/Run_1_1.mp4 {10**12}", "path label"),
        ("v1.5", "3 0", "path label"),
    ],
)
def test_a_line_of_another_format_than_the_lists_first_is_quoted(
    listing: Listing, form: str, line: str, expected: str
) -> None:
    error = listing.refusal(FORMS[form]([("Sit/Sit_1_1.mp4", 1)]) + line + "\n")
    number = 3 if form == "v1.1" else 2
    where = f"{listing.folder / 'train.txt'}:{number}"
    assert str(error) == f"{where}: '{line}'; expected {expected}; correct the line"


def test_a_header_without_a_line_lists_no_video(listing: Listing) -> None:
    assert "train.txt lists no video; expected one" in str(listing.refusal("VideoID,Video,ClassID\n"))


def test_a_mapping_table_is_found_under_its_longer_name_and_beside_the_test_list(listing: Listing) -> None:
    listing.write("0\t9\tSit/Sit_1_1.mp4\n1\t5\tRun/Run_1_1.mp4\n", "0\t5\tRun/Run_9_1.mp4\n")
    (listing.folder / "mapping_table.txt").unlink()
    (listing.folder / "mapping_table_t1.txt").write_text("5\tRunning\n9\tSitting\n")
    assert read_source(listing.data()).classes == ("Running", "Sitting")
    (listing.folder / "training").mkdir()
    train = (listing.folder / "train.txt").rename(listing.folder / "training" / "train.txt")
    split = Split(train=train, test=listing.folder / "test.txt")
    assert read_source(listing.data(splits={"split0": split})).classes == ("Running", "Sitting")


def test_of_several_mapping_tables_none_is_guessed(listing: Listing) -> None:
    data = listing.write(GOOD)
    (listing.folder / "mapping_table.txt").rename(listing.folder / "mapping_table_t1.txt")
    (listing.folder / "mapping_table_t2.txt").write_text(TABLE)
    with pytest.raises(UsageError) as raised:
        read_source(data)
    assert str(raised.value) == (
        f"{listing.folder} holds 2 class tables: mapping_table_t1.txt, mapping_table_t2.txt; expected one; "
        "say with data.classes which"
    )
    chosen = listing.data(classes=listing.folder / "mapping_table_t2.txt")
    assert read_source(chosen).classes == ("Run", "Sit")


def without_table(listing: Listing, train: str) -> Data:
    data = listing.write(train)
    (listing.folder / "mapping_table.txt").unlink()
    return data


def test_without_a_mapping_table_the_folders_name_the_classes(listing: Listing) -> None:
    source = read_source(without_table(listing, "0\t9\tSit/Sit_1_1.mp4\n1\t0\tRun/Run_1_1.mp4\n"))
    assert (source.classes, source.listed_labels) == (("Run", "Sit"), (0, 9))
    assert [video.label for video in source.train] == [1, 0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "1\tSit/Sit_1_2.mp4",
            "label 1 in folder 'Sit', but 2 in 'Sit' at {train}:1, and no class table says",
        ),
        (
            "2\tRun/Run_1_1.mp4",
            "label 2 in folder 'Run', but 2 in 'Sit' at {train}:1, and no class table says",
        ),
        (
            "0\tRun_1_1.mp4",
            "'Run_1_1.mp4' lies in no folder, and no class table names label 0; expected <Class>/",
        ),
    ],
)
def test_without_a_mapping_table_labels_that_folders_do_not_tell_apart_are_refused(
    listing: Listing, line: str, problem: str
) -> None:
    with pytest.raises(DataError) as raised:
        read_source(without_table(listing, f"0\t2\tSit/Sit_1_1.mp4\n1\t{line}\n"))
    train = listing.folder / "train.txt"
    assert str(raised.value).startswith(f"{train}:2: {problem.format(train=train)}")
    assert "give data.classes" in str(raised.value)


# The real lists.


def real_data(folder: Path, train: Path, test: Path) -> Data:
    split = Split(train=train, test=test)
    return Data.model_validate({"source": "arid", "videos": folder, "splits": {"split0": split}})


def test_the_real_subset_has_its_videos_and_no_recording_group_in_both_splits(arid_data: Path) -> None:
    subset = arid_data / "arid_subset"
    lists = subset / "lists"
    source = read_source(real_data(subset / "videos", lists / "split0_train.txt", lists / "split0_test.txt"))
    assert (len(source.train), len(source.test)) == (102, 48)
    assert source.classes == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
    assert all(video.key.startswith(source.classes[video.label] + "_") for video in source.train)
    groups = [{(v.label, v.group) for v in videos} for videos in (source.train, source.test)]
    assert groups[0].isdisjoint(groups[1])
    assert all(group.isdigit() for _, group in groups[0] | groups[1])


@pytest.mark.parametrize(("number", "counts"), [(1, (2288, 823)), (2, (2252, 859)), (3, (2259, 852))])
def test_the_lists_of_arid_1_0_name_avi_files_that_are_found_as_mp4(
    arid_data: Path, tmp_path: Path, number: int, counts: Sequence[int]
) -> None:
    folder = arid_data / "arid_lists" / "v1.0"
    train, test = (folder / f"ARID_split{number}_{split}.txt" for split in ("train", "test"))
    for name in re.findall(r"\S+\.avi", train.read_text() + test.read_text()):
        path = (tmp_path / name).with_suffix(".mp4")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = read_source(real_data(tmp_path, train, test))
    assert len(source.classes) == 11
    assert (len(source.train), len(source.test)) == counts


def test_the_lists_of_arid_1_1_and_1_5_have_their_counts(arid_data: Path) -> None:
    lists = arid_data / "arid_lists"
    v1_1 = read_arid_list(lists / "v1.1" / "ARID1.1_t1_train_pub.csv")
    v1_5 = read_arid_list(lists / "v1.5" / "test_2011.txt")
    assert (len(v1_1), {row.label for row in v1_1}) == (1837, {*range(5, 11)})
    assert (len(v1_5), {row.label for row in v1_5}) == (2011, {*range(11)})
    assert (v1_1[0].path, v1_1[0].label) == ("Wave/Wave_10_1.mp4", 10)
    assert (v1_5[-1].path, v1_5[-1].label) == ("Push/Push_6_9.mp4", 4)


def test_the_table_of_arid_1_1_names_six_classes_from_5_to_10(arid_data: Path) -> None:
    table = read_class_table(arid_data / "arid_lists" / "v1.1" / "mapping_table_t1.txt")
    assert table.classes == ("Run", "Sit", "Stand", "Turn", "Walk", "Wave")
    assert table.listed == (5, 6, 7, 8, 9, 10)


def test_a_training_list_of_arid_1_1_gets_labels_from_0_and_keeps_the_listed_ones(
    arid_data: Path, tmp_path: Path
) -> None:
    train = arid_data / "arid_lists" / "v1.1" / "ARID1.1_t1_train_pub.csv"
    test = tmp_path / "test.txt"
    test.write_text("Wave/Wave_1_1.mp4 10\n")
    for row in (*read_arid_list(train), *read_arid_list(test)):
        (tmp_path / row.path).parent.mkdir(exist_ok=True)
        (tmp_path / row.path).touch()
    source = read_source(real_data(tmp_path, train, test))
    assert (len(source.train), source.listed_labels) == (1837, (5, 6, 7, 8, 9, 10))
    assert {(source.classes[v.label], v.path.parent.name) for v in source.train} == {
        (name, name) for name in source.classes
    }


def test_the_test_list_of_arid_1_5_is_used_with_a_training_list_from_elsewhere(
    arid_data: Path, tmp_path: Path
) -> None:
    """It has no class table, neither has the folder of the other list."""
    test = arid_data / "arid_lists" / "v1.5" / "test_2011.txt"
    train, train_rows = tmp_path / "train.txt", arid_data / "arid_lists" / "v1.0" / "ARID_split1_train.txt"
    listed = {row.path for row in read_arid_list(test)}
    rows = [
        r for r in read_arid_list(train_rows) if Path(r.path).with_suffix(".mp4").as_posix() not in listed
    ]
    train.write_text("".join(f"{i}\t{row.label}\t{row.path}\n" for i, row in enumerate(rows)))
    for name in (*listed, *(row.path for row in rows)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = read_source(real_data(tmp_path, train, test))
    assert (len(source.train), len(source.test)) == (len(rows), 2011)
    assert source.listed_labels == tuple(range(11))
    assert source.classes[0] == "Drink"


def test_real_lists_without_their_videos_count_what_is_missing(arid_data: Path, tmp_path: Path) -> None:
    folder = arid_data / "arid_lists" / "v1.0"
    with pytest.raises(
        DataError, match=r"^3111 of 3111 listed videos are missing in .*, first Drink/Drink_11"
    ):
        read_source(real_data(tmp_path, folder / "ARID_split1_train.txt", folder / "ARID_split1_test.txt"))
