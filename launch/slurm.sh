#!/bin/sh
#SBATCH --job-name=ukd --nodes=2 --ntasks-per-node=1 --exclusive --no-kill --requeue --open-mode=append
# A Ray cluster on the nodes of a Slurm job, and an experiment on it; from the repository's root:
#   sbatch --nodes 8 --gpus-per-node 4 --time 24:00:00 launch/slurm.sh EXPERIMENT [a.b=value ...]
# The first node is the head, and runs the coordinator too. A node that is lost leaves the others working. When the
# head is lost Slurm begins again; when time is up, submit the same: both go on where it was.
set -eu
PATH="$PWD/.venv/bin:$PATH"
. launch/ray_settings.sh
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
steps=
trap 'kill $steps' EXIT; trap 'exit 1' INT TERM
wait_for() { # a condition, while every step runs
  while sleep 2; do
    for step in $steps; do kill -0 "$step"; done
    if "$@"; then return; fi
  done
}
head_answers() { ray health-check --address "$head:$port" 2>/dev/null; }
all_there() { [ "$(ray status --address "$head:$port" | grep -c ' node_')" -ge "$SLURM_JOB_NUM_NODES" ]; }

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --block & steps="$!"
wait_for head_answers
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --no-kill ray start --address="$head:$port" --block &
  steps="$steps $!"
fi
wait_for all_there
ukd run "$@" cluster.address="$head:$port"
