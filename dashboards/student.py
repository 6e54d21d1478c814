"""The student's dashboard: what it learns, and what it costs beside one that learns from labels alone."""

from __future__ import annotations

from dashboards.panels import RATE, Dashboard, Panel, Query, Variable, one

_MEMBERS = 'label_values(ukd_epoch{run="$run", stage="distill"}, member)'
_OF = 'run="$run", stage="distill", member='
_STUDENT, _BASELINE = f'{_OF}"$student"', f'{_OF}"$baseline"'


def _beside(metric: str) -> list[Query]:
    """A figure of the student, and of the baseline that it is compared with."""
    return [
        Query(f"max({metric}{{{_STUDENT}}})", "student"),
        Query(f"max({metric}{{{_BASELINE}}})", "baseline"),
    ]


_LEARNS = (
    one(
        "How far is the student?",
        "Its finished epochs.",
        "short",
        f"max(ukd_epoch{{{_STUDENT}}})",
        "epochs",
        kind="number",
        width=8,
    ),
    one(
        "How long is an epoch beside the baseline's?",
        "The latest epoch of the student over the latest of the baseline: 100% is as long. "
        "Targets are read, not computed, so it should not grow with the number of teachers.",
        "percentunit",
        f"max(ukd_epoch_seconds{{{_STUDENT}}}) / max(ukd_epoch_seconds{{{_BASELINE}}})",
        "student / baseline",
        kind="number",
        width=8,
    ),
    one(
        "How much memory does it take beside the baseline?",
        "Peak of rank 0 of the student over that of the baseline: 100% is as much.",
        "percentunit",
        f"max by (device) (ukd_memory_peak_bytes{{{_STUDENT}}})"
        f" / max by (device) (ukd_memory_peak_bytes{{{_BASELINE}}})",
        "{{device}}",
        kind="number",
        width=8,
    ),
    one(
        "How do the parts of the loss fall?",
        "Mean over an epoch: `ce` against the labels, `kl` against the target, `total` what is minimised.",
        "short",
        f"max by (kind) (ukd_loss{{{_STUDENT}}})",
        "{{kind}}",
    ),
    Panel(
        "How accurate is it?",
        "Top-1: `train` on the clips of the latest epoch as they were seen, `test` once it is evaluated.",
        "percentunit",
        [
            Query(
                f'max by (split) (ukd_accuracy_ratio{{run="$run", member="${who}"}})', f"{who}, {{{{split}}}}"
            )
            for who in ("student", "baseline")
        ],
        most=1,
    ),
)

_COSTS = (
    Panel(
        "How long does an epoch take?",
        "Of the student and of the baseline, the latest one of each.",
        "s",
        _beside("ukd_epoch_seconds"),
    ),
    Panel(
        "How much memory does it take?",
        "Peak of rank 0, host and GPU the larger one, of the student and of the baseline.",
        "bytes",
        _beside("ukd_memory_peak_bytes"),
    ),
    one(
        "What share of a step is spent waiting for clips?",
        "Of the students that train now, by rank. Above a third decoding is what limits them: "
        "more CPUs a rank, a GPU that decodes, or resources.frame_cache_gib.",
        "percentunit",
        f'sum by (rank) (rate(ukd_data_wait_seconds_total{{run="$run", stage="distill"}}[{RATE}]))'
        f' / sum by (rank) (rate(ukd_step_seconds_sum{{run="$run", stage="distill"}}[{RATE}]))',
        "rank {{rank}}",
        most=1,
    ),
    Panel(
        "How long does a step take?",
        "Of the students that train now, waiting for clips included: half of the steps, and 95% of them, "
        "take no longer.",
        "s",
        [
            Query(
                f"histogram_quantile({share}, sum by (le)"
                f' (rate(ukd_step_seconds_bucket{{run="$run", stage="distill"}}[{RATE}])))',
                f"{100 * share:g}%",
            )
            for share in (0.5, 0.95)
        ],
    ),
)

STUDENT = Dashboard(
    "student",
    "ukd: Student",
    "What a student learns, and what it costs beside a baseline; choose both at the top.",
    (*_LEARNS, *_COSTS),
    (
        Variable("student", "Student", _MEMBERS, last=True),
        Variable("baseline", "Baseline", _MEMBERS),
    ),
)
