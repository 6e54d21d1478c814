"""The files of launch/: short, right as far as tools tell, tried as far as they go without their cluster."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ukd_dist import pipeline
from ukd_dist.rundir import RunDirectory
from ukd_dist.status import read_status

HOME = Path(__file__).parents[1]
LAUNCH = HOME / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
TINY = LAUNCH / "experiments/tiny.yaml"
SMALLEST = [
    "data.synthetic.train_clips=2",
    "data.synthetic.test_clips=1",
    "teachers.defaults.epochs=1",
    "students.defaults.epochs=1",
]
# Slurm's programs where both nodes are this machine: every step begins at once, whatever its options.
SRUN = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
SCONTROL = "#!/bin/sh\nhostname\necho other\n"
# What bounds a silent node loss (as measured on four nodes), retries for memory, and demands for tokens.
SETTINGS = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_task_oom_retries": "3",
    "RAY_AUTH_MODE": "disabled",
}


def call(*command: str | Path, path: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Call a script from the repository's root with this Python's programs, those in `path` before them."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    places = [*([str(path)] if path else []), str(Path(sys.executable).parent), ours["PATH"]]
    environment = {**ours, "PYTHONPATH": str(HOME), "PATH": os.pathsep.join(places), **more}
    return subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def write_programs(folder: Path, **programs: str) -> Path:
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_no_longer_than_30_lines(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 30


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck: install it (Debian, Ubuntu: apt-get install shellcheck)")
    found = call(program, "--external-sources", *SCRIPTS)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", ["laptop.sh", "submit.sh", "monitoring/start.sh"])
def test_a_script_without_arguments_says_how_it_is_called(name: str) -> None:
    done = call(LAUNCH / name)
    assert done.returncode == 2
    assert f"launch/{name} " in done.stderr


def test_the_settings_reach_what_a_shell_starts() -> None:
    found = call("sh", "-c", ". launch/ray_settings.sh && env").stdout
    assert dict(re.findall(r"^(RAY_\w+)=(.*)$", found, re.MULTILINE)) == SETTINGS


def test_no_file_starts_a_node_without_the_settings() -> None:
    cluster = yaml.safe_load((LAUNCH / "ray_cluster.yaml").read_text())
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    scripts = [
        path.read_text() for path in SCRIPTS if re.search(r"^[^#]*\bray start\b", path.read_text(), re.M)
    ]
    starting = [*commands, *scripts]
    assert len(starting) == 3
    assert all(text.index(". launch/ray_settings.sh") < text.index("ray start") for text in commands)
    assert all("\n. launch/ray_settings.sh\n" in text for text in scripts)


def test_rays_launcher_takes_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = prepare_config(yaml.safe_load((LAUNCH / "ray_cluster.yaml").read_text()))
    validate_config(cluster)
    assert cluster["available_node_types"]["gpu"]["resources"] == {"CPU": 16, "GPU": 1}
    for source in cluster["file_mounts"].values():
        assert (HOME / source / "launch/ray_settings.sh").is_file()


def test_the_laptop_s_script_fails_as_its_run_does(tmp_path: Path) -> None:
    done = call(LAUNCH / "laptop.sh", TINY, f"root={tmp_path}/run", "data.sauce=1")
    assert done.returncode == 2
    assert "unknown key 'sauce'" in done.stderr


def test_a_slurm_job_whose_head_does_not_start_ends(tmp_path: Path) -> None:
    programs = write_programs(tmp_path / "bin", srun="#!/bin/sh\nexit 1\n", scontrol=SCONTROL)
    done = call("sh", LAUNCH / "slurm.sh", TINY, path=programs, **job(nodes=2))
    assert done.returncode != 0
    assert not (HOME / "runs/tiny/coordinator.lock").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_slurm_job_runs_on_all_its_nodes_and_stops_them(tmp_path: Path) -> None:
    programs = write_programs(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL)
    overrides = [f"root={tmp_path}/run", *SMALLEST]

    done = call("sh", LAUNCH / "slurm.sh", TINY, *overrides, path=programs, **job(nodes=2))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray: 2 node(s)" in done.stderr
    states = read_status(RunDirectory(tmp_path / "run"), pipeline.load(TINY, overrides))
    assert {member.state for member in states} == {"done"}
    port = 20000 + int(job(nodes=2)["SLURM_JOB_ID"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((socket.gethostname(), port), 1)


def job(nodes: int) -> dict[str, str]:
    """What Slurm tells a job of itself."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "SLURM_JOB_NUM_NODES": str(nodes),
    }
