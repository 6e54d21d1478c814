"""The chart of teacher_count.py's record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw it as SVG, where matplotlib is installed; it says what of the teachers was generated."""
    try:
        from matplotlib import pyplot, rc_context
    except ImportError:
        print("no chart: matplotlib is not installed")
        return
    students, grows = record["students"], record["grows_with_teachers"]["of"]
    with rc_context({"svg.hashsalt": "teacher_count", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(2, 2, figsize=(8, 6), layout="constrained")
        figure.suptitle(
            "Stored targets: of generated (random) logits. Teachers in memory: random weights.", fontsize=9
        )
        for axis, ratio, title in (
            (axes[0, 0], "time_ratio", "an epoch's seconds, times those without distillation"),
            (axes[0, 1], "memory_ratio", "peak memory, times that without distillation"),
        ):
            names = list(students)[::-1]
            colours = ["#8a8a8a" if n == "none" else "#2a6f97" if "stored" in n else "#c26a4a" for n in names]
            means = [students[name][ratio]["mean"] for name in names]
            margins = [students[name][ratio]["margin"] for name in names]
            bars = axis.barh(names, means, xerr=margins, color=colours, error_kw={"capsize": 2})
            axis.bar_label(bars, [f"{mean:.3f}" for mean in means], padding=6)
            axis.axvline(1, color="black", linewidth=0.6)
            axis.set_xlabel(title)
            axis.margins(x=0.15)
        teachers = [int(k) for k in grows]
        for axis, lines, unit in (
            (
                axes[1, 0],
                {"teacher_seconds": "teachers' training: one's, times K", "reduce_seconds": "reduction"},
                "seconds",
            ),
            (
                axes[1, 1],
                {"weights_bytes": "teachers' weights: one's, times K", "logits_bytes": "their logits"},
                "bytes",
            ),
        ):
            for (key, label), colour in zip(lines.items(), ("#c26a4a", "#2a6f97"), strict=True):
                values = [grows[str(k)][key] for k in teachers]
                axis.plot(teachers, values, marker="o", label=label, color=colour)
            axis.set(xscale="log", yscale="log", xlabel="teachers", ylabel=unit)
            axis.minorticks_off()
            axis.legend(frameon=False)
        for axis in axes.flat:
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
