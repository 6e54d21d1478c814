"""What a terminal shows while a run goes on, and that nothing of it is printed elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from ukd_dist import live
from ukd_dist.cli.answering import _Stderr
from ukd_dist.errors import DataError
from ukd_dist.live import overview, watching
from ukd_dist.progress import Progress
from ukd_dist.status import MemberStatus

MEMBERS = [
    MemberStatus("shards", "shards", "done"),
    MemberStatus("teacher", "x3d-rgb-s0", "done", epoch=4, epochs=4, seconds=40.0),
    MemberStatus(
        "teacher", "x3d-rgb-s1", "running", epoch=1, epochs=4, seconds=10.0, host="nodeA", eta_seconds=29.0
    ),
    MemberStatus("teacher", "x3d-rgb-s2", "failed", epochs=4, error="the loss is nan\nin step 3"),
    MemberStatus("teacher", "x3d-rgb-s3", "pending", epochs=4),
    MemberStatus("target", "ukd-1", "pending"),
    MemberStatus("student", "ukd-s0", "pending", epochs=4),
]


def drawn(members: Sequence[MemberStatus], width: int = 100) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(overview(members))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_each_stage_has_a_line_with_its_counts_and_what_is_left() -> None:
    lines = drawn(MEMBERS).splitlines()
    assert lines[0].split() == ["shards", "done"]
    assert " ".join(lines[1].split()) == (
        "teachers 1 done, 1 running, 1 failed, 1 pending about 110.0 s left"
    )
    assert [line.split()[0] for line in lines[:4]] == ["shards", "teachers", "targets", "students"]


def test_who_is_at_work_is_named_with_its_node_and_what_it_needs() -> None:
    (line,) = [line for line in drawn(MEMBERS).splitlines() if "x3d-rgb-s1" in line]
    assert line.split() == ["x3d-rgb-s1", "1/4", "epochs", "29.0", "s", "left", "nodeA"]


def test_a_failure_is_one_line_however_narrow_the_terminal_is() -> None:
    assert "  x3d-rgb-s2: the loss is nan in step 3" in drawn(MEMBERS).splitlines()
    narrow = [line for line in drawn(MEMBERS, width=24).splitlines() if "the loss" in line or "s2:" in line]
    assert len(narrow) == 1
    assert len(narrow[0]) <= 24


def test_of_a_thousand_that_run_some_are_shown_and_the_others_counted() -> None:
    many = [MemberStatus("teacher", f"m{n}", "running", epochs=2) for n in range(1000)]
    lines = drawn(many).splitlines()
    assert len(lines) < 15
    assert "  and 992 more" in [line.rstrip() for line in lines]


def terminal() -> Progress:
    return Progress(Console(file=StringIO(), force_terminal=True, width=100, highlight=False))


def told(progress: Progress) -> str:
    assert isinstance(progress.console.file, StringIO)
    return progress.console.file.getvalue()


def test_what_cannot_be_read_at_the_moment_leaves_the_last_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE_SECONDS", 0.05)
    looks = list[int]()

    def look() -> Sequence[MemberStatus]:
        looks.append(len(looks))
        if len(looks) == 1:
            return MEMBERS
        raise DataError("a line is damaged", expected="whole lines", action="wait")

    progress = terminal()
    with watching(progress, look):
        time.sleep(1.2)
    assert len(looks) > 2
    assert "x3d-rgb-s1" in told(progress)[-2000:]


def test_the_run_directory_is_looked_at_every_few_seconds_and_nobody_waits_for_it() -> None:
    looks = list[float]()

    def look() -> Sequence[MemberStatus]:
        looks.append(time.monotonic())
        time.sleep(3.0)
        return MEMBERS

    progress = terminal()
    began = time.monotonic()
    with watching(progress, look):
        progress.say("a line")
        time.sleep(0.5)
    assert time.monotonic() - began < 2.5
    assert len(looks) == 1
    assert "a line" in told(progress)


def test_on_a_terminal_bars_stand_over_the_view_and_leave_a_line_when_they_end() -> None:
    progress = terminal()
    with watching(progress, lambda: MEMBERS):
        with progress.bar("teachers", 4, "epochs") as bar:
            for _ in range(3):
                bar.advance()
            time.sleep(1.2)
            bar.advance()
        progress.say("a line")
    text = told(progress)
    assert text.index("3/4") < text.index("x3d-rgb-s1", text.index("3/4"))
    assert "teachers: 4/4 epochs in" in text
    assert "a line" in text


def test_a_warning_while_the_view_stands_is_printed_over_it() -> None:
    progress = terminal()
    handler = _Stderr()
    with watching(progress, lambda: MEMBERS):
        handler.emit(logging.LogRecord("ukd", logging.WARNING, "", 0, "waiting for a checkpoint", None, None))
    assert "waiting for a checkpoint" in told(progress)


def test_where_there_is_no_terminal_nothing_but_plain_lines_is_printed() -> None:
    console = Console(file=StringIO(), width=100)
    progress = Progress(console)
    with watching(progress, lambda: MEMBERS), progress.bar("teachers", 1, "epochs") as bar:
        bar.advance()
    assert isinstance(console.file, StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("teachers: 1/1 epochs in ")
