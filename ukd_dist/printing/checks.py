"""What was found by checking: files, manifests, this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from ukd_dist.doctor import Finding
    from ukd_dist.kubernetes.check import Verdict as ManifestVerdict
    from ukd_dist.stages.verify import Verdict


def describe_verdict(verdict: Verdict) -> str:
    """What was found of a directory, in words."""
    if verdict.problem:
        return verdict.problem
    words = f"ok, {verdict.files} files, {verdict.bytes} bytes"
    if verdict.difference is not None:
        words += f"; {verdict.recomputed} rows recomputed, off by {verdict.difference:.1g} of a logit at most"
    return f"{words}; {verdict.note}" if verdict.note else words


def print_manifest_verdicts(found: Sequence[ManifestVerdict]) -> None:
    """Print a line of each problem, how many objects there are, and of which kinds no schema is known."""
    for verdict in found:
        for problem in verdict.problems:
            print(f"{verdict.where}: {verdict.object}: {problem}")
    objects = [verdict for verdict in found if verdict.object != "together"]
    unknown = sorted({verdict.object.partition("/")[0] for verdict in objects if not verdict.schema})
    print(f"{len(objects)} objects, {sum(len(verdict.problems) for verdict in found)} problems")
    if unknown:
        print(f"no schema is known of {', '.join(unknown)}: of these only what their pods say was validated")


def findings_table(findings: Sequence[Finding]) -> Table:
    """A line of each thing that a machine has or lacks."""
    table = Table("", "what", "found", "means", box=None, pad_edge=False)
    for finding in findings:
        mark = {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]no[/]"}[finding.verdict]
        table.add_row(mark, finding.what, finding.found, finding.means)
    return table
