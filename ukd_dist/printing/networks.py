"""Networks and what they say of videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ukd_dist.printing.answers import as_documents, print_aligned, print_answer

if TYPE_CHECKING:
    from ukd_dist.models.overview import Overview
    from ukd_dist.stages.predict import Prediction


def print_networks(networks: Sequence[Overview], as_json: bool) -> None:
    """Print a line of each network, however narrow the terminal is."""
    if as_json:
        print_answer(as_documents(networks), as_json)
        return
    lines = [["name", "parameters", "GMACs", "of a clip", "frames seen", "builder", "kinetics400", "source"]]
    for n in networks:
        seen = " + ".join("all" if every == 1 else f"1 in {every}" for every in n.every)
        clip = f"{n.frames} x {n.size} x {n.size}"
        figures = f"{n.parameters / 1e6:.2f} M", f"{n.gmacs:.4g}"
        lines.append([n.name, *figures, clip, seen, n.builder, n.pretrained or "-", n.source])
    print_aligned(lines, right=(1, 2))


def print_prediction(prediction: Prediction, as_json: bool) -> None:
    """Print a video's classes as one line, at once."""
    first, *others = prediction.top
    if as_json:
        top = [{"class": share.class_name, "probability": share.probability} for share in prediction.top]
        print(json.dumps({"video": prediction.video, **top[0], "top5": top}), flush=True)
        return
    rest = ", ".join(f"{share.class_name} {share.probability:.1%}" for share in others)
    print(f"{prediction.video}: {first.class_name} {first.probability:.1%} ({rest})", flush=True)
