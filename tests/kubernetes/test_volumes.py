"""The pod that holds the volumes: as valid and as confined as the others, and what the page does with it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ukd_dist.kubernetes.check import verdicts
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import RAY_KINDS, pods
from ukd_dist.kubernetes.references import problems
from ukd_dist.kubernetes.schemas import Schemas

HOME = Path(__file__).parents[2]
TEXT = (HOME / "k8s/volumes.yaml").read_text()
PAGE = (HOME / "docs/kubernetes.md").read_text()
Built = Callable[[str], list[Manifest]]


@pytest.fixture
def holder() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXT)
    return found


def head(objects: list[Manifest]) -> dict[str, Any]:
    (job,) = [item for item in objects if item["kind"] in RAY_KINDS]
    return next(pods(job)).spec


def test_it_is_valid_and_fits_what_the_overlays_apply(
    built: Built, schemas: Schemas, holder: dict[str, Any]
) -> None:
    found = verdicts("volumes", [*built("gpu"), holder], schemas)
    assert [(verdict.object, verdict.problems) for verdict in found if verdict.problems] == []


def test_what_is_wrong_with_it_is_named(built: Built, holder: dict[str, Any]) -> None:
    broken = copy.deepcopy(holder)
    broken["spec"]["securityContext"].pop("runAsNonRoot")
    broken["spec"]["containers"][0]["resources"].pop("limits")
    found = problems([*built("gpu"), broken])
    assert "Pod/ukd-volumes: may run as root" in found
    assert any(p.startswith("Pod/ukd-volumes: volumes has no limits of cpu") for p in found)


def test_it_is_confined_as_the_nodes_of_ray_are(built: Built, holder: dict[str, Any]) -> None:
    spec, other = holder["spec"], head(built("gpu"))
    assert spec["securityContext"] == other["securityContext"]
    assert spec["containers"][0]["securityContext"] == other["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] <= 86_400
    assert "labels" not in holder["metadata"]  # of none of the policies that let something through


def test_runs_are_read_and_videos_written_where_the_others_have_them(
    built: Built, holder: dict[str, Any]
) -> None:
    def places(spec: dict[str, Any]) -> dict[str, str]:
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in spec["volumes"]
            if "persistentVolumeClaim" in v
        }
        mounts = spec["containers"][0]["volumeMounts"]
        return {m["mountPath"]: claims[m["name"]] for m in mounts if m["name"] in claims}

    spec = holder["spec"]
    assert places(spec) == places(head(built("gpu"))) == {"/data": "ukd-data", "/runs": "ukd-runs"}
    writable = {m["mountPath"] for m in spec["containers"][0]["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/data", "/tmp", "/home/ukd"}


def test_the_page_puts_one_s_own_image_into_it(built: Built) -> None:
    ((old, new),) = set(re.findall(r"sed 's\|(\S+?)\|(\S+?)\|' k8s/volumes\.yaml", PAGE))
    assert TEXT.count(f"image: {old}\n") == 1
    assert old == head(built("gpu"))["containers"][0]["image"]
    assert new.startswith("ghcr.io/ours/")


@pytest.mark.parametrize("overlay", ["gpu", "cluster", "nightly"])
def test_all_but_what_runs_is_applied_by_the_page_s_selector(built: Built, overlay: str) -> None:
    ((key, value),) = set(re.findall(r"--selector (\S+?)!=(\w+)", PAGE))
    left = [item["kind"] for item in built(overlay) if item["metadata"]["labels"].get(key) == value]
    assert len(left) == 1
    assert left[0] in RAY_KINDS
