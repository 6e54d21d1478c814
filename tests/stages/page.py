"""The report's page as tests read it."""

from __future__ import annotations

from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

from tests.stages import fake_run
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.report import report

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """The page's text, and the rows of its tables by section, as lists of their cells' text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.open, self.section = "", list[str](), ""
        self.sections: dict[str, list[list[str]]] = defaultdict(list)
        self.feed(html)

    @property
    def rows(self) -> list[list[str]]:
        return [row for rows in self.sections.values() for row in rows]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attributes)["id"] or ""
        if tag == "tr":
            self.sections[self.section].append([])
        if tag in ("th", "td"):
            self.sections[self.section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"th", "td"} & set(self.open):
            self.sections[self.section][-1][-1] += data

    def row(self, member_id: str, section: str = "results") -> list[str]:
        (row,) = [row for row in self.sections[section] if row and member_id in row[0]]
        return row


def page_of(root: Path, text: str = fake_run.EXPERIMENT) -> Page:
    """The page of the run at `root`, whose tags must all be closed."""
    page = Page(report(RunDirectory(root), fake_run.experiment(root, text)).read_text())
    assert page.open == []
    page.text = " ".join(page.text.split())
    return page
