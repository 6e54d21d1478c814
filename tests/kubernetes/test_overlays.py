"""The manifests of k8s/: every overlay builds, is what Kubernetes and KubeRay take, and fits the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from dashboards.make import ALERTS, FOLDER
from ukd_dist import pipeline
from ukd_dist.cli import app
from ukd_dist.kubernetes import manifests
from ukd_dist.kubernetes.check import verdicts
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import GPU, RAY_KINDS, Pod, cluster_spec, job_spec, pods, quantity
from ukd_dist.kubernetes.references import DRAIN, problems
from ukd_dist.kubernetes.render import METRICS
from ukd_dist.kubernetes.schemas import Schemas

HOME = Path(__file__).parents[2]
LAUNCH = HOME / "launch"
OVERLAYS = manifests.overlays()
STAYS = "ukd-dist/stays"  # the label of a cluster's pods that waits for experiments
WITH_JOB = [name for name in OVERLAYS if name != "cluster"]
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
FOREIGN = {"PodMonitor", "PrometheusRule"}  # the Prometheus Operator's: no schema of them comes from PyPI
Built = Callable[[str], list[Manifest]]

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_job = pytest.mark.parametrize("overlay", WITH_JOB)


def only(objects: list[Manifest], *kinds: str) -> Manifest:
    (found,) = [item for item in objects if item["kind"] in kinds]
    return found


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [i for i in objects if i["kind"] == kind and i["metadata"]["name"] == name]
    return found


def cluster(objects: list[Manifest]) -> dict[str, Any]:
    found = cluster_spec(only(objects, *RAY_KINDS))
    assert found is not None
    return found


def job(objects: list[Manifest]) -> dict[str, Any]:
    found = job_spec(only(objects, "RayJob", "RayCronJob"))
    assert found is not None
    return found


def ray_pods(objects: list[Manifest]) -> list[Pod]:
    return [pod for pod in pods(only(objects, *RAY_KINDS)) if pod.ray]


def environment(pod: Pod) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod.spec["containers"][0]["env"]}


def ports(objects: list[Manifest]) -> Iterator[dict[str, Any]]:
    for pod in ray_pods(objects):
        yield from pod.spec["containers"][0].get("ports", [])


def test_there_are_the_overlays_that_are_promised() -> None:
    assert OVERLAYS == ["cluster", "cpu", "gpu", "head-ft", "kueue", "nightly", "spot"]


@each_overlay
def test_every_object_of_an_overlay_is_valid(built: Built, schemas: Schemas, overlay: str) -> None:
    found = verdicts(overlay, built(overlay), schemas)

    assert [(verdict.object, verdict.problems) for verdict in found if verdict.problems] == []
    assert {verdict.object.partition("/")[0] for verdict in found if not verdict.schema} <= FOREIGN


@each_overlay
def test_the_objects_of_an_overlay_fit_each_other(built: Built, overlay: str) -> None:
    assert problems(built(overlay)) == []


@each_overlay
def test_everything_lies_in_one_namespace_and_says_whose_it_is(built: Built, overlay: str) -> None:
    for item in built(overlay):
        assert item["metadata"].get("namespace", item["metadata"]["name"]) == "ukd"
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ukd-dist"


@each_overlay
def test_every_node_has_the_settings_of_launch(built: Built, overlay: str) -> None:
    text = ". launch/ray_settings.sh && env"
    said = subprocess.run(["sh", "-c", text], cwd=HOME, env={}, capture_output=True, text=True, check=True)
    launched = dict(re.findall(r"^(RAY_\w+)=(.*)$", said.stdout, re.MULTILINE))
    # There each node says whether tokens are asked for, here the cluster does for all of its nodes.
    assert launched.pop("RAY_AUTH_MODE") == "disabled"
    assert len(launched) == 7

    objects = built(overlay)

    assert cluster(objects)["authOptions"] == {"mode": "token"}
    for pod in ray_pods(objects):
        assert launched.items() <= environment(pod).items(), pod.where
        assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & environment(pod).keys(), pod.where


@each_overlay
def test_ray_is_the_version_that_is_installed(built: Built, overlay: str) -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (HOME / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster(built(overlay))["rayVersion"] == pinned


@each_overlay
def test_what_is_shared_in_memory_has_room_for_rays_objects(built: Built, overlay: str) -> None:
    whole = cluster(built(overlay))
    for group in (whole["headGroupSpec"], *whole["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        (shared,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shared-mem"]
        objects = float(group["rayStartParams"]["object-store-memory"])
        memory = quantity(spec["containers"][0]["resources"]["limits"]["memory"])
        assert shared["medium"] == "Memory"
        assert objects < quantity(shared["sizeLimit"]) < memory


@each_overlay
def test_nothing_but_the_autoscaler_gets_a_token_of_kubernetes(built: Built, overlay: str) -> None:
    objects = built(overlay)
    holding = []
    for pod in pods(only(objects, *RAY_KINDS)):
        assert pod.spec["automountServiceAccountToken"] is False, pod.where
        held = {v["name"] for v in pod.spec["volumes"] if "serviceAccountToken" in json.dumps(v)}
        holding += [pod.where] if held else []
        assert not held & {m["name"] for c in pod.containers for m in c["volumeMounts"]}, pod.where
    sidecar = cluster(objects).get("autoscalerOptions", {})
    tokens = [m["name"] for m in sidecar.get("volumeMounts", []) if m["mountPath"] == TOKEN_FOLDER]
    assert (len(holding), len(tokens)) == ((0, 0) if overlay == "kueue" else (1, 1))


@each_overlay
def test_what_is_mounted_into_the_autoscaler_is_a_volume_of_the_head(built: Built, overlay: str) -> None:
    whole = cluster(built(overlay))
    there = {volume["name"] for volume in whole["headGroupSpec"]["template"]["spec"]["volumes"]}
    mounts = whole.get("autoscalerOptions", {}).get("volumeMounts", [])
    assert {mount["name"] for mount in mounts} <= there


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "cpu"])
def test_pods_that_asked_for_no_gpu_see_none(built: Built, overlay: str) -> None:
    objects = built(overlay)
    whole = cluster(objects)
    for pod in pods(only(objects, *RAY_KINDS)):
        container = pod.spec["containers"][0]
        told = {entry["name"]: entry["value"] for entry in container["env"]}
        # Of a container with GPUs it would override what the device plugin says.
        asked = GPU in container["resources"]["limits"]
        assert told.get("NVIDIA_VISIBLE_DEVICES") == (None if asked else "void"), pod.where
    for group in (whole["headGroupSpec"], *whole["workerGroupSpecs"]):
        has = GPU in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        said = group["rayStartParams"].get("num-gpus", group.get("resources", {}).get("GPU"))
        assert said == (None if has else "0")


@each_overlay
def test_names_and_kubernetes_are_reached_where_distributions_have_them(built: Built, overlay: str) -> None:
    rules = named(built(overlay), "NetworkPolicy", "ukd-to-the-outside")["spec"]["egress"]
    anywhere = [port["port"] for rule in rules if "to" not in rule for port in rule["ports"]]
    assert anywhere == [443, 6443, 8443, 16443]
    asked = {
        json.dumps(to): {(p["port"], p["protocol"]) for p in r["ports"]}
        for r in rules
        for to in r.get("to", [])
    }
    assert len(asked) == 4
    assert {frozenset(ports) for ports in asked.values()} == {
        frozenset({(port, "UDP"), (port, "TCP")}) for port in (53, 5353)
    }


@each_overlay
def test_ray_is_not_reachable_from_outside(built: Built, overlay: str) -> None:
    objects = built(overlay)
    assert cluster(objects)["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert {item["kind"] for item in objects} & {
        "Service",
        "Ingress",
        "Role",
        "ClusterRole",
        "Secret",
    } == set()
    nothing = named(objects, "NetworkPolicy", "ukd-nothing")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outside = named(objects, "NetworkPolicy", "ukd-operator-and-prometheus")["spec"]["ingress"]
    assert all("namespaceSelector" in source for rule in outside for source in rule["from"])
    assert "gcs-server" not in {port["port"] for rule in outside for port in rule["ports"]}


@each_job
def test_the_job_s_command_is_one_that_ukd_accepts(built: Built, overlay: str) -> None:
    program, name, *arguments = shlex.split(job(built(overlay))["entrypoint"])
    group = typer.main.get_group(app)
    command = group.commands[name]

    context = command.make_context(name, list(arguments))

    assert program == "ukd"
    assert context.params["experiment"] == Path("/experiment/experiment.yaml")


@each_job
def test_the_job_s_experiment_is_mounted_and_valid(built: Built, overlay: str, tmp_path: Path) -> None:
    objects = built(overlay)
    held = named(objects, "ConfigMap", "ukd-tiny")
    (tmp_path / "experiment.yaml").write_text(held["data"]["experiment.yaml"])
    experiment = pipeline.load(tmp_path / "experiment.yaml")

    (port,) = [port["containerPort"] for port in ports(objects) if port["name"] == METRICS]

    assert experiment.cluster.metrics_port == port
    assert experiment.root.is_relative_to("/runs")
    runs = [pod.spec for pod in ray_pods(objects)]
    for spec in runs:
        mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts["runs"] == {"name": "runs", "mountPath": "/runs"}
        assert mounts["data"]["readOnly"]
    assert sum("experiment" in {v["name"] for v in spec["volumes"]} for spec in runs) == 1 + (
        overlay == "head-ft"
    )


@pytest.mark.parametrize("name", ["fleet", "student", "data_and_cluster"])
def test_a_dashboard_is_the_file_in_dashboards(built: Built, name: str) -> None:
    held = named(built("gpu"), "ConfigMap", f"ukd-dashboard-{name.replace('_', '-')}")
    assert held["data"] == {f"{name}.json": (FOLDER / f"{name}.json").read_text()}
    assert held["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_every_dashboard_is_there(built: Built) -> None:
    held = [n for i in built("gpu") if i["kind"] == "ConfigMap" for n in i["data"] if n.endswith(".json")]
    assert sorted(held) == sorted(path.name for path in FOLDER.glob("*.json"))


def test_the_alerts_are_those_of_dashboards(built: Built) -> None:
    rule = only(built("gpu"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((FOLDER / ALERTS).read_text())


def test_metrics_come_under_the_names_that_dashboards_and_alerts_ask_for(built: Built) -> None:
    jobs = yaml.safe_load((LAUNCH / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    endpoints = only(built("gpu"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    for scrape, endpoint in zip(jobs, endpoints, strict=True):
        always = [rule for rule in endpoint["relabelings"] if "regex" not in rule]
        targets = {rule["targetLabel"]: rule for rule in always}
        assert targets["job"]["replacement"] == scrape["job_name"]
        assert targets["run"]["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"]
        assert endpoint.get("honorLabels") == scrape.get("honor_labels")
        kept = [rule["regex"] for rule in scrape.get("metric_relabel_configs", [])]
        assert [rule["regex"] for rule in endpoint.get("metricRelabelings", [])] == kept


def test_gpu_nodes_are_asked_for_by_their_gpus_and_have_what_nccl_needs(built: Built) -> None:
    (pod,) = [pod for pod in ray_pods(built("gpu")) if pod.where.endswith(" gpu")]
    assert pod.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nodeSelector" not in pod.spec
    assert pod.spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    told = environment(pod)
    assert told["NCCL_SOCKET_IFNAME"] == told["GLOO_SOCKET_IFNAME"] == "eth0"
    patience = 60 * pipeline.load(LAUNCH / "experiments/tiny.yaml").cluster.rank_timeout_minutes
    assert float(told["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) == patience
    assert told["RAY_START_ULIMIT_OPEN_FILES"] == "65536"


def test_the_small_overlay_asks_for_no_gpu_and_no_operator_of_prometheus(built: Built) -> None:
    objects = built("cpu")
    assert "nvidia.com/gpu" not in yaml.safe_dump(objects)
    assert {item["kind"] for item in objects} & FOREIGN == set()
    sidecar = cluster(objects)["autoscalerOptions"]["resources"]
    asked = [p.spec["containers"][0]["resources"] for p in pods(only(objects, "RayJob"))] + [sidecar]
    # One node with 4 CPUs and 12 GiB; Kubernetes and KubeRay's operator have what is left.
    assert sum(quantity(resources["requests"]["cpu"]) for resources in asked) <= 1.5
    assert sum(quantity(resources["requests"]["memory"]) for resources in asked) <= quantity("6Gi")
    assert sum(quantity(resources["limits"]["memory"]) for resources in asked) <= quantity("10Gi")


def test_a_worker_fits_a_node_of_eight_cpus(built: Built) -> None:
    """What is left of 32 or 64 GiB where a cloud reserves the most (GKE), beside daemon sets."""
    for pod in (pod for pod in ray_pods(built("gpu")) if not pod.where.endswith(" head")):
        asked = pod.spec["containers"][0]["resources"]
        assert asked["requests"]["memory"] == asked["limits"]["memory"]
        assert quantity(asked["requests"]["cpu"]) <= 7.4
        assert quantity(asked["requests"]["memory"]) <= quantity(
            "56.5Gi" if GPU in asked["limits"] else "27Gi"
        )


def test_preemptible_nodes_get_more_time_to_drain(built: Built) -> None:
    plain, spot = ({p.where.split()[-1]: p for p in ray_pods(built(name))} for name in ("gpu", "spot"))
    assert float(environment(spot["gpu"])[DRAIN]) > float(environment(plain["gpu"])[DRAIN])
    assert environment(spot["cpu"])[DRAIN] == environment(plain["cpu"])[DRAIN]
    assert spot["gpu"].spec["terminationGracePeriodSeconds"] == 120  # AWS gives no more
    assert "affinity" in spot["gpu"].spec
    assert "affinity" not in spot["head"].spec


def test_a_head_that_may_die_keeps_its_state_on_a_volume_and_the_coordinator_elsewhere(built: Built) -> None:
    whole = cluster(built("head-ft"))
    assert whole["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    asked = json.loads(job(built("head-ft"))["entrypointResources"])
    (group,) = [g for g in whole["workerGroupSpecs"] if g["groupName"] == "coordinator"]
    assert asked == {"coordinator": 1}
    assert group["resources"] == {"CPU": "0", "GPU": "0", "coordinator": "1"}  # Ray's autoscaler's names
    assert group["minReplicas"] == group["maxReplicas"] == 1
    assert (
        not {"num-cpus", "num-gpus", "memory", "resources"} & group["rayStartParams"].keys()
    )  # KubeRay refuses


def test_a_queued_job_has_a_cluster_that_does_not_grow(built: Built) -> None:
    objects = built("kueue")
    assert only(objects, "RayJob")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "ukd"
    assert cluster(objects)["enableInTreeAutoscaling"] is False
    assert job(objects)["shutdownAfterJobFinishes"]


def test_the_cluster_that_stays_is_that_of_the_job(built: Built) -> None:
    staying, of_job = built("cluster"), built("gpu")
    for pod in ray_pods(of_job):
        pod.labels.update({"app.kubernetes.io/instance": "ukd", STAYS: "true"})
    assert cluster(staying) == cluster(of_job)


def test_no_alarm_is_raised_where_a_cluster_waits_for_experiments(built: Built) -> None:
    """The monitor is the same whatever is applied beside it: the pods say which they are."""
    monitor = only(built("cluster"), "PodMonitor")
    assert monitor == only(built("gpu"), "PodMonitor")
    (rule,) = [r for r in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"] if "regex" in r]
    assert rule["sourceLabels"] == ["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", STAYS)]
    assert (rule["targetLabel"], rule["regex"]) == ("job", "true")
    assert {pod.labels.get(STAYS) for pod in ray_pods(built("cluster"))} == {"true"}
    assert {pod.labels.get(STAYS) for pod in ray_pods(built("gpu"))} == {None}
    rules = yaml.safe_load((FOLDER / ALERTS).read_text())["groups"][0]["rules"]
    (gone,) = [alert["expr"] for alert in rules if alert["alert"] == "UkdCoordinatorGone"]
    assert gone == 'up{job="ukd"} == 0'
    assert rule["replacement"] != "ukd"


def test_the_nightly_job_is_that_of_preemptible_nodes_with_an_end(built: Built) -> None:
    """And is not tried again: of a second cluster the deadline would begin anew."""
    nightly, spot = job(built("nightly")), job(built("spot"))
    assert nightly == {**spot, "activeDeadlineSeconds": 32_400, "backoffLimit": 0}
    assert only(built("nightly"), "RayCronJob")["spec"]["schedule"] == "0 21 * * *"


def test_no_folder_of_manifests_is_left_out_of_an_installed_package() -> None:
    text = (HOME / "pyproject.toml").read_text()
    folders = {path.parent for path in (HOME / "k8s").rglob("kustomization.yaml")}
    assert len(folders) == 1 + len(OVERLAYS)
    for folder in (*folders, FOLDER):
        place = folder.relative_to(HOME)
        assert f'"share/ukd-dist/{place}" = ["{place}/*' in text
