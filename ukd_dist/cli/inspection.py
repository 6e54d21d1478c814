"""Commands that look at what there is: at a run directory, and at this machine."""

from __future__ import annotations

from dataclasses import asdict

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json, Root
from ukd_dist.printing import console, findings_table, members_table, print_answer


def status(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """How far a run is; needs no cluster."""
    with answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.status import read_status

        members = read_status(*open_run(root))
        if as_json:
            print_answer([asdict(member) for member in members], as_json)
            return
        console().print(members_table(members))


def report(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """Write the HTML report of a run, finished or not."""
    with answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.report import report as write_report

        print_answer({"report": str(write_report(*open_run(root)))}, as_json)


def verify(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """Check every file of what is finished against its sha256; exit 1 names what is damaged."""
    with answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.verify import refuse_damage
        from ukd_dist.stages.verify import verify as verify_files

        verdicts = []
        for verdict in verify_files(open_run(root)[0]):
            verdicts.append(verdict)
            if not as_json:
                state = verdict.problem or f"ok, {verdict.files} files, {verdict.bytes} bytes"
                print(f"{verdict.directory}: {state}", flush=True)
        if as_json:
            print_answer([asdict(verdict) for verdict in verdicts], as_json)
        refuse_damage(verdicts)


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What this machine has, and what will not work on it."""
    with answering(debug):
        from ukd_dist.doctor import examine

        findings = examine()
        if as_json:
            print_answer([asdict(finding) for finding in findings], as_json)
            return
        console().print(findings_table(findings))
