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

from ukd_dist.config import Data, Split
from ukd_dist.data.sources import MAX_KEY_BYTES, Source, read_class_table, read_source
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
        == f"data.videos {nowhere} is no folder; expected the folder with ARID's classes; correct data.videos"
    )


@pytest.mark.parametrize(
    ("name", "what"), [("train", "list"), ("test", "list"), ("mapping_table", "class table")]
)
def test_a_missing_list_or_class_table_is_named(listing: Listing, name: str, what: str) -> None:
    data = listing.write(GOOD)
    path = listing.folder / f"{name}.txt"
    path.unlink()
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


@pytest.mark.parametrize("line", ["2 Walk", "Walk\t2", "2\t", "\tWalk", "²\tWalk"])
def test_a_malformed_line_of_the_class_table_is_quoted_with_its_number(listing: Listing, line: str) -> None:
    error = listing.refusal(GOOD, table=f"{TABLE}{line}\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}:3: '{line}'; expected label<TAB>class; correct the line"


def test_a_label_given_to_two_classes_is_refused(listing: Listing) -> None:
    error = listing.refusal(GOOD, table=f"{TABLE}1\tWalk\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table}:3: label 1 is given twice; expected each label once; remove one of the two"


def test_a_table_of_one_class_is_refused(listing: Listing) -> None:
    error = listing.refusal(GOOD, table="0\tRun\n")
    table = listing.folder / "mapping_table.txt"
    assert str(error) == f"{table} names 1 classes; expected at least 2; add the missing ones"


def test_a_label_of_no_class_is_named_with_the_labels_there_are(listing: Listing) -> None:
    error = listing.refusal(GOOD, "0\t0\tRun/Run_9_1.mp4\n1\t7\tSit/Sit_9_1.mp4\n")
    assert str(error) == (
        f"{listing.folder / 'test.txt'}:2: label 7 is no class of the class table; expected one of [0, 1]; "
        "correct the label, or add its class to the table"
    )


def test_a_missing_video_is_named_with_the_line_that_lists_it(listing: Listing) -> None:
    error = listing.refusal(GOOD, "0\t0\tRun/Run_8_1.avi\n")
    video = listing.folder / "videos" / "Run" / "Run_8_1.avi"
    assert str(error) == (
        f"{listing.folder / 'test.txt'}:1: video {video} is missing; expected it or Run_8_1.mp4; "
        "correct data.videos or the list"
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


@pytest.mark.parametrize("twin", ["Run/Run_1_1.mp4", "Run/Run_1_1.avi", "elsewhere/Run_1_1.mp4"])
def test_a_key_listed_twice_over_both_lists_is_refused(listing: Listing, twin: str) -> None:
    listing.add("elsewhere/Run_1_1.mp4")
    error = listing.refusal(GOOD, f"0\t0\t{twin}\n")
    both = f"{listing.folder / 'train.txt'} and {listing.folder / 'test.txt'}"
    assert str(error).startswith(f"key 'Run_1_1' is listed twice in {both} (")
    assert str(error).endswith("); expected every video once over both lists; remove one of the lines")


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
        f"{path} lists no video; expected index<TAB>label<TAB>path on each line; "
        "add videos, or give another list"
    )


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


def test_the_table_of_arid_1_1_names_six_classes_from_5_to_10(arid_data: Path) -> None:
    table = read_class_table(arid_data / "arid_lists" / "v1.1" / "mapping_table_t1.txt")
    assert table == {5: "Run", 6: "Sit", 7: "Stand", 8: "Turn", 9: "Walk", 10: "Wave"}
