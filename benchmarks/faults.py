"""Claim: killed, cut-off or drained nodes and killed workers cost a run seconds and change none of its bytes.

Runs the fault suites of tests/ with real trainings on Ray nodes in network namespaces, the slow counts
included (as root, about 75 minutes), and keeps what the tests say they saw: of each suite how many passed and
of each figure its trials with minimum, median and maximum. Every suite is kept as soon as it ends, in
benchmarks/results/faults.json; names of suites as arguments run these alone, and `-k` some of their tests,
which are kept beside the whole.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from record import RESULTS, claim_of, commit, hardware, parser, save

TESTS = Path(__file__).parents[1] / "tests"
RESULT = RESULTS / "faults.json"
SUITES = {"fleet": "test_fleet_faults.py", "student": "test_student_faults.py"}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("suites", nargs="*", choices=[*SUITES, []], help="default: all")
    arguments.add_argument("-k", dest="expression", default="", help="as pytest's: tests of such names alone")
    given = arguments.parse_args()
    for suite in given.suites or SUITES:
        kept = json.loads(RESULT.read_text())["suites"] if RESULT.exists() else {}
        name = f"{suite} -k {given.expression}" if given.expression else suite
        found = run(TESTS / SUITES[suite], given.expression)
        record = {
            "claim": claim_of(__doc__),
            "command": "python benchmarks/faults.py",
            "hardware": hardware(),
            "suites": {**kept, name: found},
        }
        print(json.dumps({name: found}))
        save(RESULT, record)


def run(tests: Path, expression: str = "") -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        options = ["-q", "-k", expression, "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", str(tests), *options], cwd=TESTS.parent, check=False)
        return summary(report)


def summary(report: Path) -> dict[str, object]:
    """What a JUnit report says of its tests and their figures."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    figures = defaultdict(list)
    for told in suite.iter("property"):
        figures[told.attrib["name"]].append(float(told.attrib["value"]))
    return {
        "commit": commit(),
        "tests": counts,
        "minutes": round(float(suite.get("time", 0)) / 60, 1),
        "figures": {name: spread(values) for name, values in sorted(figures.items())},
    }


def spread(values: list[float]) -> dict[str, object]:
    return {
        "trials": len(values),
        "minimum": min(values),
        "median": round(statistics.median(values), 1),
        "maximum": max(values),
        "all": values,
    }


if __name__ == "__main__":
    main()
