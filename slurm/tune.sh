#!/usr/bin/env bash
#SBATCH --job-name=scaledl-tune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#
# A search over a space, its trials on all nodes of the job:
#
#   sbatch --nodes=2 slurm/tune.sh configs/resnet.yaml --trials 64 [key=value ...]
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 slurm/tune.sh configs/resnet.yaml --trials 64
#
# scaledl runs once, on the first node, and brings up Ray over all of them: --cpus-per-task and --gpus-per-node say what
# of a node Ray gets; one task a node. Nothing of it is left when the job ends.
# Two minutes before the time is up, or when the job is preempted, it is stopped and requeued like slurm/train.sh: the
# job keeps its id, which is the search's, and finished trials are not repeated.
set -euo pipefail

# sbatch runs a copy of this file from its spool folder: $0 says nothing about the project.
project="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}"
if [ "$#" -eq 0 ]; then
    echo "usage: sbatch slurm/tune.sh CONFIG.yaml [--trials N] [key=value ...]" >&2
    exit 2
elif [ ! -r "$project/slurm/common.sh" ]; then
    echo "no slurm/common.sh in $project: submit from the project's folder" >&2
    exit 2
fi
cd "$project"
. slurm/common.sh

run_job_here tune "$@"
