"""Which videos a miniature ARID consists of: classes, recording groups, clips; nothing is drawn yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ukd_dist.errors import UsageError

CLASSES = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")


@dataclass(frozen=True)
class Video:
    """Everything that determines a video's pixels.

    Attributes:
        label: Index of the class in `CLASSES`.
        group: Recording group (actor and place), from 1.
        clip: Number within the class and group, from 1.
        seed: Seed of the dataset.
    """

    label: int
    group: int
    clip: int
    seed: int

    @property
    def class_name(self) -> str:
        """The class."""
        return CLASSES[self.label]

    @property
    def path(self) -> str:
        """The path within the videos' folder, as in ARID: `Walk/Walk_3_12.mp4`."""
        return f"{self.class_name}/{self.class_name}_{self.group}_{self.clip}.mp4"


Division = tuple[list[Video], list[Video]]


def plan(
    *, seed: int, train_clips: int, test_clips: int, train_groups: int = 6, test_groups: int = 4
) -> tuple[list[Video], list[Video]]:
    """Plan a dataset.

    Args:
        seed: Decides every group and clip: more clips of the same seed add to the same videos.
        train_clips: Training videos a class.
        test_clips: Test videos a class.
        train_groups: Groups over which the training videos are spread, numbered from 1.
        test_groups: Groups of the test videos, numbered after those.

    Returns:
        Training and test videos, by class, group and clip.

    Raises:
        UsageError: A count is below 1, or the seed below 0.
    """
    require_at_least("seed", seed, 0)
    counts = {"train_clips": train_clips, "test_clips": test_clips}
    groups = {"train_groups": train_groups, "test_groups": test_groups}
    for name, value in (counts | groups).items():
        require_at_least(name, value, 1)
    test = _spread(seed, test_clips, train_groups + 1, test_groups)
    return _spread(seed, train_clips, 1, train_groups), test


def divide(train: Sequence[Video], test: Sequence[Video], splits: int) -> list[Division]:
    """Divide the same videos into training and test as often as asked, each time by other groups.

    Args:
        train: Training videos of the first division.
        test: Its test videos.
        splits: Number of divisions.

    Returns:
        Training and test videos of each; no group is in the tests of two.

    Raises:
        UsageError: There are too few groups for so many tests.
    """
    groups, tested = ({video.group for video in videos} for videos in ((*train, *test), test))
    if splits * len(tested) > len(groups):
        raise UsageError(
            f"{len(groups)} groups of drawn videos, {len(tested)} of them for tests, make no {splits} splits",
            expected="other groups in the test of every split",
            action="lower splits or test_clips, or raise train_clips",
        )
    order = [*sorted(tested), *sorted(groups - tested, reverse=True)]
    divisions: list[Division] = [(list(train), list(test))]
    everything = sorted((*train, *test), key=lambda video: (video.label, video.group, video.clip))
    for number in range(1, splits):
        chosen = set(order[number * len(tested) : (number + 1) * len(tested)])
        parts: Division = ([], [])
        for video in everything:
            parts[video.group in chosen].append(video)
        divisions.append(parts)
    return divisions


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number of the dataset that is too small (UsageError)."""
    if value < least:
        raise UsageError(
            f"{name} of a synthetic dataset is {value}", expected=f"at least {least}", action=f"raise {name}"
        )


def _spread(seed: int, clips: int, first_group: int, groups: int) -> list[Video]:
    """Deal a class's clips out to the groups in turn, to the same ones for every class."""
    dealt = sorted((first_group + n % groups, 1 + n // groups) for n in range(clips))
    return [Video(label, group, clip, seed) for label in range(len(CLASSES)) for group, clip in dealt]
