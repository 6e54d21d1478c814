"""`ukd k8s render` and `ukd k8s check`, as they are typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.test_readme import commands
from ukd_dist import pipeline
from ukd_dist.cli import app
from ukd_dist.kubernetes import manifests
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import GPU, pods, quantity
from ukd_dist.kubernetes.references import problems
from ukd_dist.kubernetes.render import DIGEST, RUN

HOME = Path(__file__).parents[2]
EXPERIMENTS = HOME / "launch/experiments"
ARID = [
    "root=/runs/table2",
    "data.videos=/data/arid",
    "data.splits.split0.train=/data/lists/train.txt",
    "data.splits.split0.test=/data/lists/test.txt",
]
pytestmark = pytest.mark.usefixtures("kustomize")


def ukd(*words: str | Path, given: str = "") -> Result:
    return CliRunner().invoke(app, ["k8s", *map(str, words)], input=given)


def rendered(*words: str | Path) -> list[Manifest]:
    done = ukd("render", *words)
    assert done.exit_code == 0, done.stderr
    return manifests.parse(done.stdout, "what was rendered")


def tiny(*words: str) -> list[Manifest]:
    return rendered(EXPERIMENTS / "tiny.yaml", "root=/runs/tiny", "--overlay", "cpu", *words)


def job_of(objects: list[Manifest]) -> dict[str, Any]:
    (job,) = [item for item in objects if item["kind"].startswith("Ray")]
    return job


def experiment_of(objects: list[Manifest]) -> Manifest:
    (held,) = [i for i in objects if i["kind"] == "ConfigMap" and "experiment.yaml" in i["data"]]
    return held


def test_the_experiment_travels_with_the_job(tmp_path: Path) -> None:
    objects = tiny("seed=7")
    held = experiment_of(objects)
    (tmp_path / "there.yaml").write_text(held["data"]["experiment.yaml"])

    there = pipeline.load(tmp_path / "there.yaml")

    here = pipeline.load(EXPERIMENTS / "tiny.yaml", ["root=/runs/tiny", "seed=7"])
    assert (there.teachers, there.targets, there.students) == (here.teachers, here.targets, here.students)
    assert there.root == Path("/runs/tiny")
    assert there.cluster.metrics_port == 8090
    mounted = {
        volume["configMap"]["name"]
        for pod in pods(job_of(objects))
        for volume in pod.spec["volumes"]
        if "configMap" in volume
    }
    assert mounted == {held["metadata"]["name"]}


def test_labels_say_which_run_and_which_experiment_an_object_is_of() -> None:
    objects = tiny()
    job, held = job_of(objects), experiment_of(objects)
    mark = job["metadata"]["labels"][DIGEST]
    assert job["metadata"]["name"] == held["metadata"]["name"] == f"ukd-tiny-{mark}"
    assert held["metadata"]["labels"][DIGEST] == mark
    for pod in pods(job):
        assert (pod.labels[RUN], pod.labels[DIGEST]) == ("tiny", mark)


def test_the_same_experiment_is_the_same_job_and_another_is_another() -> None:
    assert tiny() == tiny()
    assert job_of(tiny())["metadata"]["name"] != job_of(tiny("seed=1"))["metadata"]["name"]


def test_a_fleet_that_has_grown_is_still_the_nightly_job() -> None:
    words = (EXPERIMENTS / "arid_tables.yaml", *ARID, "--overlay", "nightly")
    first, second = (job_of(rendered(*words, f"seed={seed}")) for seed in (0, 1))
    assert first["metadata"]["name"] == second["metadata"]["name"] == "ukd-arid-tables"
    assert first["metadata"]["labels"][DIGEST] != second["metadata"]["labels"][DIGEST]


@pytest.mark.parametrize("overlay", [n for n in manifests.overlays() if n not in ("cluster", "cpu")])
def test_what_is_rendered_is_valid(definitions: Path, overlay: str, tmp_path: Path) -> None:
    resources = "{gpus: 1, cpus: 6, memory_gib: 40}"
    asked = [f"{members}.defaults.resources={resources}" for members in ("teachers", "students")]
    done = ukd("render", EXPERIMENTS / "arid_tables.yaml", *ARID, *asked, "--overlay", overlay)
    assert done.exit_code == 0, done.stderr

    checked = ukd("check", "-", "--crds", definitions, given=done.stdout)

    assert checked.exit_code == 0, checked.stdout + checked.stderr
    assert ", 0 problems" in checked.stdout


def test_what_the_page_on_kubernetes_renders_can_be_rendered() -> None:
    (line,) = [c for c in commands("docs/kubernetes.md") if c.startswith("ukd k8s render launch/")]
    words = shlex.split(line.partition(" > ")[0])[3:]
    job = job_of(rendered(HOME / words[0], *words[1:]))
    groups = {g["groupName"]: g for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert (groups["gpu"]["minReplicas"], groups["gpu"]["maxReplicas"]) == (1, 8)


def test_json_is_a_list_that_kubectl_takes_too() -> None:
    done = ukd("render", EXPERIMENTS / "tiny.yaml", "root=/runs/tiny", "--overlay", "cpu", "--json")
    assert manifests.parse(done.stdout, "json") == tiny()
    assert json.loads(done.stdout)["kind"] == "List"


@pytest.mark.parametrize("overlay", [n for n in manifests.overlays() if n != "cluster"])
def test_a_node_s_own_copy_of_the_shards_has_its_place(overlay: str) -> None:
    cached = ("root=/runs/tiny", "cluster.shard_cache=/scratch/ukd", "--overlay", overlay)
    assert job_of(rendered(EXPERIMENTS / "tiny.yaml", *cached))


def test_a_cluster_of_a_long_name_keeps_it_whole_in_what_kuberay_names_after_it() -> None:
    job = job_of(rendered(EXPERIMENTS / "tiny.yaml", "root=/runs/tiny", f"name={'long-' * 12}x"))
    assert len(job["metadata"]["name"]) + len("-abcde") <= 50


def test_a_port_that_the_experiment_names_is_the_pod_s() -> None:
    objects = tiny("cluster.metrics_port=9100")
    ports = pods(job_of(objects)).__next__().spec["containers"][0]["ports"]
    assert {"name": "ukd-metrics", "containerPort": 9100} in ports
    held = yaml.safe_load(experiment_of(objects)["data"]["experiment.yaml"])
    assert held["cluster"]["metrics_port"] == 9100


def test_the_overlay_of_one_s_own_that_the_page_shows_is_taken(tmp_path: Path) -> None:
    for name in ("k8s", "dashboards"):
        shutil.copytree(HOME / name, tmp_path / name)
    page = (HOME / "docs/kubernetes.md").read_text()
    written = page.partition("cat > ours/kustomization.yaml <<'EOF'\n")[2].partition("    EOF\n")[0]
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/kustomization.yaml").write_text(textwrap.dedent(written))

    objects = rendered(EXPERIMENTS / "tiny.yaml", "root=/runs/tiny", "--overlay", tmp_path / "ours")

    images = {c["image"] for pod in pods(job_of(objects)) for c in pod.containers}
    assert images == {"ghcr.io/ours/ukd-dist:0.1.0-cuda"}
    claims = [item["spec"] for item in objects if item["kind"] == "PersistentVolumeClaim"]
    assert [claim["storageClassName"] for claim in claims] == ["filestore-rwx"] * 2


def test_what_the_page_adds_to_it_fits_the_manifests(tmp_path: Path) -> None:
    for name in ("k8s", "dashboards"):
        shutil.copytree(HOME / name, tmp_path / name)
    page = (HOME / "docs/kubernetes.md").read_text()
    written = re.findall(r"cat >>? ours/kustomization.yaml <<'EOF'\n(.*?)    EOF\n", page, re.DOTALL)
    assert len(written) == 2
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/kustomization.yaml").write_text(
        re.sub(r"^    ", "", "".join(written), flags=re.MULTILINE)
    )

    objects = manifests.build(tmp_path / "ours")

    assert problems(objects) == []
    claims = {i["metadata"]["name"]: i["spec"] for i in objects if i["kind"] == "PersistentVolumeClaim"}
    assert claims["ukd-data"]["storageClassName"] == ""
    assert (claims["ukd-data"]["volumeName"], claims["ukd-data"]["accessModes"]) == (
        "videos",
        ["ReadOnlyMany"],
    )
    assert (claims["ukd-runs"]["storageClassName"], "volumeName" in claims["ukd-runs"]) == (
        "filestore-rwx",
        False,
    )
    accounts = [item for item in objects if item["kind"] == "ServiceAccount"]
    assert [account["imagePullSecrets"] for account in accounts] == [[{"name": "registry"}]] * 2
    asked = {pod.where.split()[-1]: pod.spec["containers"][0]["resources"] for pod in pods(job_of(objects))}
    assert asked["gpu"]["requests"]["memory"] == "26Gi"
    assert asked["gpu"]["requests"].keys() == asked["gpu"]["limits"].keys() == {*asked["cpu"]["limits"], GPU}


def test_the_page_s_quota_admits_all_nodes_of_the_queue_s_overlay() -> None:
    page = (HOME / "docs/kubernetes.md").read_text()
    quota = {n: quantity(q) for n, q in re.findall(r"\{name: (\S+), nominalQuota: (\S+)\}", page)}
    (job,) = [item for item in manifests.build(manifests.overlay_folder("kueue")) if item["kind"] == "RayJob"]
    counts = {g["groupName"]: g["maxReplicas"] for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    asked = dict.fromkeys(quota, 0.0)
    for pod in pods(job):
        for name, text in pod.spec["containers"][0]["resources"]["requests"].items():
            asked[name] += counts.get(pod.where.split()[-1], 1) * quantity(text)
    assert set(quota) == {"cpu", "memory", "ephemeral-storage", GPU}
    assert all(asked[name] <= quota[name] for name in quota), (asked, quota)


REFUSED = {
    "on no volume of the pods; expected a path below /runs; root=/runs/tiny": ["root=runs/tiny"],
    "root /data/tiny is on no volume": ["root=/data/tiny"],
    "cluster.shard_cache /var/cache/ukd is on no volume": [
        "root=/runs/x",
        "cluster.shard_cache=/var/cache/ukd",
    ],
    "cluster.shard_cache /data/ukd is on no volume": ["root=/runs/x", "cluster.shard_cache=/data/ukd"],
    "expected a path below /data or /runs": ["root=/runs/a", "data.shards=/elsewhere/shards"],
    "cluster.address is HEAD:6379": ["root=/runs/tiny", "cluster.address=HEAD:6379"],
    "unknown key 'sauce'": ["root=/runs/tiny", "data.sauce=1"],
    "is no label of Kubernetes": ["root=/runs/tiny", f"name={'x' * 64}"],
    "no worker group with GPUs": ["root=/runs/tiny", "teachers.defaults.resources.gpus=1"],
    "overlay 'gpus' does not exist; expected one of cluster, cpu": ["root=/runs/tiny", "--overlay", "gpus"],
    "overlay 'cluster' holds 0 jobs": ["root=/runs/tiny", "--overlay", "cluster"],
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_rendered_is_refused(said: str) -> None:
    words = REFUSED[said]
    overlay = [] if "--overlay" in words else ["--overlay", "cpu"]
    done = ukd("render", EXPERIMENTS / "tiny.yaml", *words, *overlay)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_every_overlay_is_checked_where_no_file_is_named() -> None:
    done = ukd("check", "--json")
    assert done.exit_code == 0, done.stderr
    assert {verdict["where"] for verdict in json.loads(done.stdout)} == set(manifests.overlays())


def test_without_the_definitions_it_is_said_what_was_not_validated() -> None:
    done = ukd("check", HOME / "k8s/overlays/gpu")
    assert done.exit_code == 0
    assert "no schema is known of PodMonitor, PrometheusRule, RayJob" in done.stdout


def test_a_mistake_in_a_pod_is_found_without_the_definitions_too() -> None:
    text = manifests.dump(tiny()).replace("imagePullPolicy:", "imagePullPolicies:")
    done = ukd("check", "-", given=text)
    assert done.exit_code == 1
    assert "imagePullPolicies" in done.stdout
    assert "problem(s), first -: RayJob/ukd-tiny" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "just words",
        "{kind: Pod}",
        "{apiVersion: v1, kind: Pod, metadata: null}",
        "{kind: List, items: [1]}",
    ],
)
def test_what_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    done = ukd("check", tmp_path / "file.yaml")
    assert done.exit_code == 2
    assert "file.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_kustomize_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    done = ukd("check", tmp_path)
    assert done.exit_code == 2
    assert "missing.yaml" in done.stderr


def test_without_a_recent_kustomize_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho \'{"clientVersion": {"gitVersion": "v1.20.2"}}\'\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    done = ukd("check", HOME / "k8s/overlays/gpu")
    assert done.exit_code == 1
    assert "no recent kustomize (kubectl has none); expected kustomize 5 or later" in done.stderr
